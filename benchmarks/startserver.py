"""A real MONAI Label server with a copy of the app, for as long as a benchmark needs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil  # type: ignore[import-untyped]

import common

START_SECONDS = 180.0


class Server:
    """``monailabel start_server`` on a free port of this machine.

    The app is copied to ``app`` first; what an earlier server left in its ``model`` folder stays.

    Args:
        app: where the copy of the app lies.
        studies: the study folder.
        conf: ``--conf`` settings.
        log: file that the server's output is appended to.
        poll: seconds between two looks whether it answers.
    """

    def __init__(self, app: Path, studies: Path, conf: Mapping[str, str], log: Path, poll: float = 1.0) -> None:
        self._poll = poll
        for old in app.iterdir() if app.is_dir() else ():
            if old.is_dir() and old.name != "model":
                shutil.rmtree(old)
        ignored = shutil.ignore_patterns("model", "logs", "bin", "__pycache__")
        shutil.copytree(common.APP, app, ignore=ignored, dirs_exist_ok=True)
        self.app = app
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log.open("ab")
        command = [str(Path(sys.executable).with_name("monailabel")), "start_server", "--app", str(app)]
        command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
        for name, value in conf.items():
            command += ["--conf", name, value]
        tools = str(Path(sys.executable).parent)
        environment = {**common.limit_threads(), "PATH": tools + os.pathsep + os.environ.get("PATH", "")}
        environment |= {"MONAI_LABEL_TRACKING_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )

    def __enter__(self) -> Server:
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise SystemExit(f"The server ended with code {self._process.returncode}; see {self._log.name}")
            try:
                self.get("/info/", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                time.sleep(self._poll)
        raise SystemExit(f"The server does not answer after {START_SECONDS:.0f} s; see {self._log.name}")

    def stop(self) -> None:
        """End the server and everything it has started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        for job in self._jobs_left:
            job.kill()
        self._log.close()

    @property
    def _jobs_left(self) -> list[psutil.Process]:
        """Jobs in our session that outlived the server."""
        left = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self._process.pid:
                    left.append(process)
            except (OSError, psutil.Error):
                continue
        return left

    def get(self, path: str, timeout: float = 600) -> Any:
        """The JSON answer to a GET."""
        return self._open(urllib.request.Request(self.url + path), timeout)

    def post(self, path: str, content: Mapping[str, Any], timeout: float = 600) -> Any:
        """The JSON answer to a POST of JSON."""
        body = json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        return self._open(request, timeout)

    def _open(self, request: urllib.request.Request, timeout: float) -> Any:
        return json.loads(self._read(request, timeout))

    def _read(self, request: urllib.request.Request, timeout: float) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                found: bytes = answer.read()
                return found
        except urllib.error.HTTPError as error:
            raise SystemExit(
                f"{request.full_url}: {error.code} {error.read().decode(errors='replace')[:600]}"
            ) from error

    def infer(self, model: str, image: Path, out: Path) -> float:
        """Label an uploaded scan into ``out``; returns the seconds a client waits."""
        from monailabel.client import MONAILabelClient

        out.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        file, _ = MONAILabelClient(self.url, tmpdir=str(out.parent)).infer(model, "", {}, file=str(image))
        seconds = time.perf_counter() - start
        os.replace(file, out)
        return seconds

    def ask_label(self, model: str, image: str, params: Mapping[str, Any]) -> bytes:
        """The label of a scan of the study, as viewers ask for it."""
        body = urllib.parse.urlencode({"params": json.dumps(params)}).encode()
        address = f"{self.url}/infer/{model}?image={image}&output=image"
        return self._read(urllib.request.Request(address, body), 1800)

    def seconds(self, path: str) -> float:
        """How long a client waits for the answer to a GET."""
        begun = time.perf_counter()
        self.get(path)
        return time.perf_counter() - begun

    def memory(self) -> tuple[float, float]:
        """What the server's process holds and the most it has held, in MiB; its jobs are not counted."""
        own = self._own_process()
        return own.memory_info().rss / 2**20, common.peak_mib(own.pid)

    def cpu_seconds(self) -> float:
        """CPU time of the server's process so far: what counts on a machine that is shared."""
        times = self._own_process().cpu_times()
        return float(times.user + times.system)

    def _own_process(self) -> psutil.Process:
        """The process that answers clients: no job, no shell around it."""
        found = []
        for process in [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]:
            try:
                if "monailabel.interfaces.utils.app" not in process.cmdline():
                    found.append((process.memory_info().rss, process.pid, process))
            except psutil.Error:
                continue  # it has ended
        return max(found)[2]

    def training_memory(self) -> float:
        """Peak memory so far of the training's processes in MiB; 0 when none runs."""
        try:
            jobs = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.Error:
            return 0.0
        total = 0.0
        for job in jobs:
            try:
                words = job.cmdline()
                if "monailabel.interfaces.utils.app" in words and "train" in words:
                    total += common.peak_mib(job.pid)
                    total += sum(common.peak_mib(child.pid) for child in job.children(recursive=True))
            except psutil.Error:
                continue
        return total
