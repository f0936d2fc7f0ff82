"""What all requests for jobs have in common: checked before one becomes a subprocess, and how many may wait.

``server.upstream.job_requests`` asks here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from lib.core.errors import UserError
from server.options import check_plain
from server.upstream.background_jobs import tasks

_TIME = "%Y-%m-%d %H:%M:%S"
_STARTING = timedelta(seconds=30)

MOST_WAITING = 3
"""Jobs of a kind that may wait behind the running one: MONAI Label itself asks for one of each scoring method."""

_MOST_WORDS = 100_000
"""Characters of a request: it goes to the job as one word of a command line, which Linux limits to 128 KiB."""

_GPUS = re.compile(r"|all|[0-9]{1,3}(,[0-9]{1,3})*")
_LONG = ("train", "batch_infer")


def check_call(method: str, request: Mapping[str, Any], *, in_server: bool) -> None:
    """Look at what all kinds of jobs have in common.

    Args:
        method: kind of job.
        request: what is asked for.
        in_server: whether the server itself is to do the work (``run_sync``).

    Raises:
        UserError: when the job could not be started.
    """
    if in_server and method in _LONG:
        raise UserError(
            "run_sync: the server would answer nobody until the job ends. Leave it out, and ask for its status."
        )
    gpus = request.get("gpus")
    if gpus is not None and not (isinstance(gpus, str) and _GPUS.fullmatch(gpus)):
        raise UserError("gpus: give 'all', or numbers with commas, for example '0' or '0,1'.")
    check_plain(request, "The request")
    if len(json.dumps(request, default=str)) > _MOST_WORDS:
        raise UserError(
            f"The request has more than {_MOST_WORDS} characters. Name a set of images (all, labeled, unlabeled) "
            "instead of each one, or send it in parts.",
            status=413,
        )


def waiting(method: str) -> int:
    """How many jobs of a kind wait for the running one."""
    return sum(task["status"] == "SUBMITTED" for task in tasks(method))


def running(method: str) -> str | None:
    """A text when a job of this kind is running or waiting, else None.

    MONAI Label itself only knows of a job once its process has started: two requests in a row would both be taken.
    """
    now = datetime.now()
    busy = [
        task
        for task in tasks(method)
        if task["status"] == "RUNNING"
        or (task["status"] == "SUBMITTED" and now - datetime.strptime(task["start_ts"], _TIME) < _STARTING)
    ]
    if not busy:
        return None
    name = {"train": "training", "batch_infer": "batch infer"}.get(method, method)
    path = {"train": "/train/", "batch_infer": "/batch/infer"}.get(method, f"/{method}/")
    return (
        f"A {name} is running since {busy[0]['start_ts']} (server time). "
        f"Wait for its end (GET {path}) or stop it (DELETE {path})."
    )
