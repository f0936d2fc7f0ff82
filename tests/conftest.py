"""Fixtures: a tiny study, and a real server on a free port that works on copies of everything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
import torch
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).resolve().parents[1]
TINY_LABELS = ("ball", "rod")
START_SECONDS = 240


def tiny_scan(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ball and a rod in textured surroundings; image, label and affine of patient ``number``."""
    random = np.random.default_rng([7, number])
    shape = (36, 32, 28)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -50.0
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"), axis=-1)
    ball = ((grid - (12, 15, 14) - random.uniform(-1.5, 1.5, 3)) ** 2).sum(-1) < random.uniform(5.5, 6.5) ** 2
    beside = grid[..., :2] - (26, 18) - random.uniform(-1.5, 1.5, 2)
    rod = ((beside**2).sum(-1) < 3.2**2) & (abs(grid[..., 2] - 14) < 10)
    body = ((grid - np.array(shape) / 2 + 0.5) ** 2 / (np.array(shape) * 0.46) ** 2).sum(-1) < 1
    image = body * 300.0 + ball * 250.0 - rod * 200.0 + gaussian_filter(random.normal(size=shape), 1.5) * 120
    image = gaussian_filter(image, 0.6) + random.normal(size=shape) * 4
    label = np.where(ball, 1, np.where(rod, 2, 0)).astype(np.uint8)
    return image.astype(np.int16), label, affine


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write an array as NIfTI; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def make_tiny_study(folder: Path, *, scans: int = 4, finals: int = 1) -> Path:
    """A study of ``scans`` scans, case_1, case_2, ...; the first ``finals`` are outlined."""
    for number in range(1, scans + 1):
        image, label, affine = tiny_scan(number)
        save_nifti(folder / f"case_{number}.nii.gz", image, affine)
        if number <= finals:
            save_nifti(folder / "labels" / "final" / f"case_{number}.nii.gz", label, affine)
    return folder


def dice(one: np.ndarray, other: np.ndarray, value: int) -> float:
    """Overlap of one structure."""
    a, b = one == value, other == value
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


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

    def start(self) -> Server:
        """Start, and wait until it answers."""
        self.launch()
        assert self.process is not None
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                if requests.get(self.url + "/info/", timeout=30).ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.3)
        self.stop()
        raise AssertionError(f"the server did not start:\n{self.tail()}")

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
            time.sleep(0.3)
        raise AssertionError(f"{path} did not end within {seconds} s:\n{self.tail()}")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small arrays are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Each test sees the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Make servers that are stopped after the module's last test."""
    servers: list[Server] = []

    def make(study: Path, env: dict[str, str] | None = None, **conf: str) -> Server:
        server = Server(tmp_path_factory.mktemp("server"), study, conf, env)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()
