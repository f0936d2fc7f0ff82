"""MONAI Label's own way to run a job loses what it prints at its end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from monailabel.utils.async_tasks import utils
from monailabel.utils.async_tasks.task import AsyncTask

from server.upstream import background_jobs
from upstream_parts import as_brought

REPLACED = ((utils, "_task_func"), (AsyncTask, "stop"))


@pytest.fixture(autouse=True)
def lists() -> Iterator[None]:
    for known in (utils.background_tasks, utils.background_processes, utils.background_executors):
        known.clear()
    with as_brought(*REPLACED):
        yield
    for known in (utils.background_tasks, utils.background_processes, utils.background_executors):
        known.clear()


class Process:
    """A job that prints its last words and has ended by the time somebody looks."""

    pid, returncode = 4194304, 1

    def __init__(self, *_: object, **__: object) -> None:
        self.stdout = self

    def poll(self) -> int:
        return 1

    def readline(self) -> str:
        return "Training stopped: no space\n"

    def close(self) -> None:
        pass


def test_last_words_are_lost_by_monai_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(utils.subprocess, "Popen", Process)
    task: dict[str, Any] = {"id": "1", "request": {}}
    utils.background_processes["train"] = {}
    utils._task_func(task, "train")
    assert list(task["details"]) == []  # the words were there to be read


def test_jobs_are_run_and_stopped_by_ours() -> None:
    asked: list[str] = []
    background_jobs.install(
        lambda task, method, callback=None: asked.append(method), lambda method: {"stopped": method}
    )
    utils.run_background_task({"model": "semisam"}, "train")
    until = time.monotonic() + 10
    while not asked and time.monotonic() < until:
        time.sleep(0.01)
    assert asked == ["train"]
    assert AsyncTask.stop("train") == {"stopped": "train"}
    assert [task["request"] for task in background_jobs.tasks("train")] == [{"model": "semisam"}]


def test_lists_are_monai_labels() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], text=True)
    process.wait()
    utils.background_processes["train"] = {}
    background_jobs.note_process("train", {"id": "7"}, process)
    assert background_jobs.processes("train") == {"7": process}
    assert background_jobs.all_processes() == [process]
    background_jobs.note_process("train", {"id": "7"}, None)
    assert utils.processes("train") == {}
    background_jobs.list_as_last("scoring", {"id": "8", "status": "ERROR"})
    assert AsyncTask.status("scoring")[0]["id"] == "8"


def test_command_is_monai_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    class Seen(Process):
        def __init__(self, words: list[str], **arguments: Any) -> None:
            super().__init__()
            started.append((words, {k: v for k, v in arguments["env"].items() if k.startswith(("CUDA", "MONAI_L"))}))

    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(utils.subprocess, "Popen", Seen)
    for key in ("CUDA_VISIBLE_DEVICES", "MONAI_LABEL_DATASTORE_AUTO_RELOAD"):
        monkeypatch.delenv(key, raising=False)
    utils.background_processes["train"] = {}
    utils._task_func({"id": "1", "request": {"gpus": "0,1", "model": "semisam"}}, "train")
    background_jobs.open_process("train", {"gpus": "0,1", "model": "semisam"})
    assert started[0] == started[1]
