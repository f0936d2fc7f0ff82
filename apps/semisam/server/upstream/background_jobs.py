"""Jobs in subprocesses: MONAI Label's lists of them, and who runs and stops them.

- Package: MONAI Label 0.8.5, ``monailabel/utils/async_tasks/{task,utils}.py``: ``_task_func``, ``AsyncTask.stop``,
  ``background_tasks``, ``background_processes``.
- Wrong: what a job prints in its last moment is lost, the exit status of a killed one is in the log only, the server
  waits for its jobs before it ends, and leaves them running when it is killed itself.
- Done: ``server.jobs.process`` runs and stops the jobs; MONAI Label goes on to queue and list them. Nothing else of the
  app touches MONAI Label's lists but through this module.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/utils/async_tasks/utils.py
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.utils.async_tasks import utils
from monailabel.utils.async_tasks.task import AsyncTask

from .replacing import replace

Task = dict[str, Any]
"""A job as MONAI Label lists it: ``id``, ``status``, ``request``, ``start_ts``, ``end_ts``, ``details``."""
Run = Callable[..., None]
Stop = Callable[[str], Task | None]


def install(run: Run, stop: Stop) -> None:
    """Let other functions run a job to its end, and stop the running one of a kind."""
    replace(utils, "_task_func", lambda own: _plain(run))
    replace(AsyncTask, "stop", lambda own: _plain(stop))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function that calls another one: a bound method cannot be marked as a replacement."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def start(kind: str, request: Mapping[str, Any]) -> tuple[Task | None, str | None]:
    """Ask for a job as a client does; returns it, or why it is not taken."""
    task, refused = AsyncTask.run(kind, request=dict(request), enqueue=True)
    return task, refused


def tasks(kind: str) -> list[Task]:
    """The jobs of a kind that this server knows of, the oldest first."""
    return list(utils.tasks(kind))


def list_as_last(kind: str, task: Task) -> None:
    """Let a job be the last one in the list of its kind."""
    utils.background_tasks.setdefault(kind, []).append(task)


def processes(kind: str) -> dict[str, subprocess.Popen[str]]:
    """The processes of the jobs of a kind that run, by the jobs' ids."""
    return dict(utils.background_processes.get(kind) or {})


def all_processes() -> list[subprocess.Popen[str]]:
    """The processes of all jobs that run."""
    return [process for each in utils.background_processes.values() for process in each.values()]


def note_process(kind: str, task: Task, process: subprocess.Popen[str] | None) -> None:
    """Note the process of a job, None when it has ended."""
    if process is None:
        utils.background_processes[kind].pop(task["id"], None)
    else:
        utils.background_processes[kind][task["id"]] = process


def open_process(kind: str, request: Mapping[str, Any]) -> tuple[subprocess.Popen[str], str]:
    """Start the process of a job, as MONAI Label starts it; returns it and its command line."""
    environment = dict(os.environ)
    gpus = str(request.get("gpus") or "all")
    if gpus != "all":
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    request = {**request, "gpus": "all"}
    if kind == "train":
        environment["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
        environment["MASTER_ADDR"] = "127.0.0.1"
        environment["MASTER_PORT"] = str(random.randint(1234, 1334))
    words = [sys.executable, "-m", "monailabel.interfaces.utils.app", "-m", kind, "-r"]
    words.append(json.dumps(request, separators=(",", ":")))
    process = subprocess.Popen(
        words, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, errors="replace", env=environment
    )
    return process, " ".join(words)
