"""A real Orthanc with its DICOMweb plugin, on a free loopback port, with everything in one folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pydicom
import requests

from needs import not_installed

PLUGINS = (Path("/usr/share/orthanc/plugins"), Path("/usr/lib/orthanc"))
START_SECONDS = 60


def find_orthanc() -> tuple[str, str]:
    """Program and DICOMweb plugin; skips the test when they are not there, unless ``SEMISAM_CLIENTS`` is set."""
    program = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin")
    plugin = next((str(p) for folder in PLUGINS for p in sorted(folder.glob("libOrthancDicomWeb.so*"))), None)
    if program is None or plugin is None:
        not_installed("Orthanc or its DICOMweb plugin")
    return program, plugin


class Orthanc:
    """A running Orthanc.

    Args:
        folder: for its files; new.
    """

    def __init__(self, folder: Path) -> None:
        program, plugin = find_orthanc()
        folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = {
            "Name": "semisam tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,  # loopback only
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "ConcurrentJobs": 1,
            "Plugins": [plugin],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(config), encoding="utf-8")
        self.url = f"http://127.0.0.1:{self.port}"
        self.dicomweb = f"{self.url}/dicom-web"
        self._log = folder / "log.txt"
        self._command = [program, str(folder / "orthanc.json")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Orthanc:
        """Start, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if requests.get(self.url + "/system", timeout=5).ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.1)
        self.stop()
        raise AssertionError(f"Orthanc did not start:\n{self._log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)

    def pause(self) -> None:
        """Let it take connections and answer none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after ``pause``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def upload(self, folder: Path) -> None:
        """Store every file of a folder."""
        for file in sorted(folder.iterdir()):
            self.put(file.read_bytes())

    def put(self, content: bytes) -> None:
        """Store one DICOM file."""
        reply = requests.post(self.url + "/instances", data=content, timeout=60)
        assert reply.ok, reply.text

    def series(self) -> dict[str, dict[str, Any]]:
        """What Orthanc says of each series, by SeriesInstanceUID."""
        found = requests.get(self.url + "/series?expand", timeout=60).json()
        return {each["MainDicomTags"]["SeriesInstanceUID"]: each for each in found}

    def segs(self, scan: str) -> list[pydicom.Dataset]:
        """All SEG objects that refer to a series, the oldest first."""
        found = []
        for each in self.series().values():
            if each["MainDicomTags"]["Modality"] != "SEG":
                continue
            for instance in each["Instances"]:
                content = requests.get(f"{self.url}/instances/{instance}/file", timeout=60).content
                dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
                if dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == scan:
                    found.append(dataset)
        return sorted(found, key=lambda seg: f"{seg.InstanceCreationDate}{seg.InstanceCreationTime}")

    def delete_series(self, uid: str) -> None:
        """Delete a series, as an administrator does."""
        assert requests.delete(f"{self.url}/series/{self.series()[uid]['ID']}", timeout=60).ok

    def delete_instance(self, uid: str) -> None:
        """Delete one object of a series."""
        found = requests.post(self.url + "/tools/lookup", data=uid, timeout=60).json()
        (place,) = [each["Path"] for each in found if each["Type"] == "Instance"]
        assert requests.delete(self.url + place, timeout=60).ok
