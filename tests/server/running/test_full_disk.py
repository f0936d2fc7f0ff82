"""A model folder on a file system that is really full. Needs the right to mount one; skipped elsewhere.

``test_server_training.py`` has the same with a simulated error, which runs everywhere.
"""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server_process import Server
from tiny_study import TINY_LABELS, make_tiny_study

pytestmark = pytest.mark.server

MEBIBYTES = 160
OPTIONS = {"preset": "quick", "rounds": 1, "max_epochs": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    study = make_tiny_study(tmp_path_factory.mktemp("base") / "study", scans=3)
    server: Server = serve(study, labels=",".join(TINY_LABELS), spacing="4.5", roi_size="32,16,16")
    disk = server.app / "model"
    disk.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={MEBIBYTES}m", "tmpfs", str(disk)], capture_output=True, check=False
        )
    except OSError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.decode(errors='replace').strip()}")
    try:
        yield server.start()
    finally:
        server.stop()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more fits; returns the file that is in the way."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(2**20)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return filler


def stats(server: Server) -> dict[str, Any]:
    return dict(server.get("/info/").json()["train_stats"]["semisam"])


def test_a_disk_that_fills_up_during_a_training(server: Server) -> None:
    assert server.post("/train/semisam", json=OPTIONS).ok
    until = time.monotonic() + 200
    while stats(server).get("stage") != "training" and time.monotonic() < until:
        time.sleep(0.2)
    filler = fill(server.app / "model")
    try:
        status = server.wait("/train/")
        assert status["status"] == "ERROR"
        last = status["details"][-1]
        assert "No space left" in last
        assert "Free some space" in last

        reply = server.post("/train/semisam", json=OPTIONS)
        assert reply.status_code == 507
        assert "Free some space" in reply.json()["detail"]
        assert server.infer("propagate", "case_2").ok  # answers go to another disk
    finally:
        filler.unlink()
    assert not list((server.app / "model").rglob("*.part*-*.pt"))
    assert not list((server.app / "model").rglob("specialist.pt"))


def test_it_goes_on_when_there_is_space_again(server: Server) -> None:
    assert server.post("/train/semisam", json=OPTIONS).ok
    status = server.wait("/train/")
    assert status["status"] == "DONE", "\n".join(status["details"])
    assert "Training continued after round 0." in server.log.read_text(errors="replace")
    assert server.infer("segment", "case_3").ok
