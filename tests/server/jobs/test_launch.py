"""Jobs by several processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from server.jobs import launch as module
from server.jobs.launch import PROCESSES, processes

APP = Path(module.__file__).parents[2]

JOB = """
import sys
from pathlib import Path
sys.path.insert(0, {app!r})
from server.jobs import launch
launch._APP = Path({folder!r})
sys.exit(launch.launch(2, "train", {{}}))
"""


def job(folder: Path, work: str) -> subprocess.Popen[bytes]:
    """A job whose two processes do some work, each after it has left its number in the folder."""
    begin = "import os, pathlib\npathlib.Path(__file__).with_name(os.environ['RANK']).write_text(str(os.getpid()))\n"
    (folder / "main.py").write_text(begin + work)
    return subprocess.Popen([sys.executable, "-c", JOB.format(app=str(APP), folder=str(folder))])


def test_as_many_processes_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROCESSES, raising=False)
    assert processes({}, "cpu") == processes({"multi_gpu": True}, "cpu") == 1
    monkeypatch.setenv(PROCESSES, "3")
    assert (processes({"multi_gpu": "true"}, "cpu"), processes({"multi_gpu": False}, "cpu")) == (3, 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert processes({"multi_gpu": True}, "cuda") == 4


@pytest.mark.slow
def test_a_process_that_fails_is_a_job_that_fails(tmp_path: Path) -> None:
    assert job(tmp_path, "raise SystemExit(int(os.environ['RANK']))").wait(60) != 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_end_with_the_job_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    running = job(tmp_path, "import time\ntime.sleep(120)")
    notes = [tmp_path / "0", tmp_path / "1"]
    until = time.monotonic() + 60
    while not all(note.is_file() and note.read_text() for note in notes):
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(running.pid, number)
    running.wait(30)
    pids = [int(note.read_text()) for note in notes]
    until = time.monotonic() + 30
    while any(map(psutil.pid_exists, pids)):
        assert time.monotonic() < until, "a process is left"
        time.sleep(0.1)
