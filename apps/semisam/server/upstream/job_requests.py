"""Requests for jobs are looked at before they become a subprocess.

- Package: MONAI Label 0.8.5, ``monailabel/utils/async_tasks/task.py``, ``AsyncTask.run``.
- Wrong: a request is handed over to a subprocess without a look, so that a misspelt option is found half a minute later
  in a log. Nor is there a limit to how many jobs wait, how long a request may be, or that a job runs in the server
  itself, which then answers nobody.
- Done: ``AsyncTask.run`` is wrapped. ``server.requests.validation`` looks at what all jobs have in common, the app
  (``check_job``) at the rest; what they raise reaches the client.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/utils/async_tasks/task.py
"""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask

from server.errors import http_answers
from server.requests.validation import MOST_WAITING, check_call, running, waiting

from .replacing import Function, arguments, replace


def install() -> None:
    """Put the look before ``AsyncTask.run``; once, however often the app is loaded."""
    replace(AsyncTask, "run", _checked)


def _checked(own: Function) -> Function:
    def run(*args: Any, **kwargs: Any) -> Any:
        given = arguments(own, args, kwargs).arguments
        method = given["method"]
        request = {**(given["request"] or {}), **(given["params"] or {})}
        with http_answers():
            check_call(method, request, in_server=given["force_sync"])
        check = getattr(app_instance(), "check_job", None)
        if check is not None:
            check(method, request)
        busy = running(method)
        if busy and (not given["enqueue"] or waiting(method) >= MOST_WAITING):
            return None, busy
        return own(*args, **kwargs)

    return run
