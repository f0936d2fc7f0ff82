"""MONAI Label hands every request for a job over to a subprocess without a look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import HTTPException
from monailabel.utils.async_tasks import task as module
from monailabel.utils.async_tasks import utils
from monailabel.utils.async_tasks.task import AsyncTask

from server.upstream import job_requests
from upstream_parts import as_brought, serve


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Requests that became a job; the app refuses the preset 'none'."""
    seen: list[dict[str, Any]] = []

    def check(method: str, request: dict[str, Any]) -> None:
        if request.get("preset") == "none":
            raise HTTPException(400, "There is no such preset.")

    def run(request: dict[str, Any], method: str) -> dict[str, Any]:
        seen.append(request)
        return {"id": "1", "request": request}

    serve(monkeypatch, module, job_requests, info=dict, bundle_path=lambda _: None, check_job=check)
    monkeypatch.setattr(module, "run_background_task", run)
    utils.background_tasks.clear()
    with as_brought((AsyncTask, "run")):
        yield seen
    utils.background_tasks.clear()


@pytest.mark.parametrize("request_", [{"preset": "none"}, {"gpus": "0;rm"}, {"client_id": "a" * 200_000}])
def test_bad_requests_start_no_job(started: list[dict[str, Any]], request_: dict[str, Any]) -> None:
    AsyncTask.run("train", request=dict(request_))
    assert len(started) == 1, "MONAI Label no longer needs this"
    job_requests.install()
    with pytest.raises(HTTPException):
        AsyncTask.run("train", request={}, params=dict(request_))
    assert len(started) == 1


def test_good_requests_do(started: list[dict[str, Any]]) -> None:
    job_requests.install()
    task, refused = AsyncTask.run("train", request={"model": "semisam"}, params={"preset": "quick"}, enqueue=True)
    assert refused is None
    assert task["request"] == started[0] == {"model": "semisam", "preset": "quick"}


def test_not_more_than_a_few_wait(started: list[dict[str, Any]]) -> None:
    running = {"id": "0", "status": "RUNNING", "start_ts": "2026-01-01 00:00:00"}
    waiting = {"id": "1", "status": "SUBMITTED", "start_ts": "2026-01-01 00:00:00"}
    utils.background_tasks["train"] = [running, *[dict(waiting) for _ in range(20)]]
    assert AsyncTask.run("train", request={}, enqueue=True)[0] is not None
    job_requests.install()
    task, refused = AsyncTask.run("train", request={}, enqueue=True)
    assert task is None
    assert "DELETE /train/" in str(refused)
