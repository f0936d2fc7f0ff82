"""A real MONAI Label server on a free port, which works on copies of everything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

from tiny_study import ROOT

START_SECONDS = 240
SCORES_BY_ITSELF = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "true"}
"""Environment of a server that starts the scoring that is due, as a server does by default."""


def copy_app(folder: Path) -> Path:
    """A copy of the app, which keeps models inside itself."""
    ignored = shutil.ignore_patterns("__pycache__", "model", "logs", "bin")
    return Path(shutil.copytree(ROOT / "apps" / "semisam", folder, ignore=ignored))


def detail(reply: requests.Response, status: int) -> str:
    """The text for the client, which has the expected status and is more than a bare error."""
    assert reply.status_code == status, reply.text
    text = reply.json()["detail"]
    assert len(text) > 20
    assert "Traceback" not in text
    return str(text)


class Server:
    """A running MONAI Label server with its own copy of the app.

    Args:
        folder: where everything of this server lies: ``app``, ``tmp``, ``client``, ``log.txt``.
        study: the study it serves.
        conf: settings.
        env: further environment variables.
    """

    def __init__(self, folder: Path, study: Path, conf: dict[str, str], env: dict[str, str] | None = None) -> None:
        self.folder, self.study = folder, study
        self.app = folder / "app"
        for name in ("tmp", "client", "sessions"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if not self.app.exists():
            copy_app(self.app)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log.txt"
        bin_folder = str(Path(sys.executable).parent)
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("MONAI_LABEL_")},
            "PATH": bin_folder + os.pathsep + os.environ.get("PATH", ""),
            "TMPDIR": str(folder / "tmp"),
            "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
            "MONAI_LABEL_TRACKING_ENABLED": "false",
            "PYTHONUNBUFFERED": "1",
            **(env or {}),
        }
        self._command = [
            *[sys.executable, "-m", "monailabel.main", "start_server", "--app", str(self.app), "--studies", str(study)],
            *["--host", "127.0.0.1", "--port", str(self.port)],
            *[word for key, value in conf.items() for word in ("--conf", key, value)],
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start the process and return at once."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, cwd=self.folder
            )

    def start(self, asked: str = "/info/") -> Server:
        """Start, and wait until it answers.

        Args:
            asked: what is asked; a server with users tells a stranger hardly anything.
        """
        self.launch()
        assert self.process is not None
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                if self.answers(asked):
                    return self
            except requests.ConnectionError:
                time.sleep(0.3)
        self.stop()
        raise AssertionError(f"the server did not start:\n{self.tail()}")

    def answers(self, asked: str) -> bool:
        """Whether a request succeeds.

        Raises:
            requests.ConnectionError: where nobody listens yet.
        """
        return requests.get(self.url + asked, timeout=30).ok

    def stop(self) -> None:
        """End the server and the jobs it started."""
        import psutil  # type: ignore[import-untyped]

        if self.process is None or self.process.poll() is not None:
            return
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        for child in children:
            if child.is_running():
                child.kill()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def tail(self, characters: int = 4000) -> str:
        """The last of what the server printed."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def client(self) -> Any:
        """A MONAI Label client with a temporary folder of its own: on one machine it would share the server's."""
        from monailabel.client import MONAILabelClient

        return MONAILabelClient(self.url, tmpdir=str(self.folder / "client"), client_id="tests")

    def get(self, path: str, **arguments: Any) -> requests.Response:
        """GET."""
        return requests.get(self.url + path, timeout=300, **arguments)

    def post(self, path: str, **arguments: Any) -> requests.Response:
        """POST."""
        return requests.post(self.url + path, timeout=300, **arguments)

    def delete(self, path: str, **arguments: Any) -> requests.Response:
        """DELETE."""
        return requests.delete(self.url + path, timeout=300, **arguments)

    def infer(self, model: str, image: str, **params: Any) -> requests.Response:
        """POST an infer request, as viewers do."""
        return self.post(
            f"/infer/{model}", params={"image": image, "output": "all"}, data={"params": json.dumps(params)}
        )

    def put_label(self, image: str, file: Path, tag: str = "final", **params: Any) -> requests.Response:
        """Save a label, as viewers do."""
        with file.open("rb") as content:
            return requests.put(
                self.url + "/datastore/label",
                params={"image": image, "tag": tag},
                data={"params": json.dumps(params)},
                files={"label": (file.name, content)},
                timeout=300,
            )

    def objects(self) -> dict[str, Any]:
        """The whole datastore."""
        return dict(self.get("/datastore/?output=all").json()["objects"])

    def wait(self, path: str, seconds: float = 300) -> dict[str, Any]:
        """Wait for the end of the job behind ``path``; its status."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            status: dict[str, Any] = self.get(path).json()
            if status["status"] not in ("SUBMITTED", "RUNNING"):
                return status
            time.sleep(0.5)  # each question takes the job's time
        raise AssertionError(f"{path} did not end within {seconds} s:\n{self.tail()}")
