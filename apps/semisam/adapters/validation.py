"""Requests for jobs are looked at before they become a subprocess.

MONAI Label's ``AsyncTask.run`` hands a request over to a subprocess without a look, so that a misspelt option is found
half a minute later in a log. Here it asks the app first; what the app raises reaches the client.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks

_MARK = "_asks_the_app_first"
_TIME = "%Y-%m-%d %H:%M:%S"
_STARTING = timedelta(seconds=30)


def install() -> None:
    """Put the look before ``AsyncTask.run``; once, however often the app is loaded."""
    if hasattr(AsyncTask.run, _MARK):
        return
    plain: Callable[..., Any] = AsyncTask.run

    def run(
        method: str,
        request: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        force_sync: bool = False,
        enqueue: bool = False,
    ) -> Any:
        """See ``AsyncTask.run``; an app may have ``check_job(method, request)``."""
        check = getattr(app_instance(), "check_job", None)
        if check is not None:
            check(method, {**(request or {}), **(params or {})})
        busy = running(method)
        if busy and not enqueue:
            return None, busy
        return plain(method, request=request, params=params, force_sync=force_sync, enqueue=enqueue)

    setattr(run, _MARK, True)
    AsyncTask.run = staticmethod(run)


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
