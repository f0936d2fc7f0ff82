"""The addresses of the page about the work, under ``/semisam/api/``: jobs, their progress as events, earlier runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from monailabel.config import RBAC_ADMIN, RBAC_ANNOTATOR
from monailabel.interfaces.utils.app import app_instance
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from lib.core.errors import UserError
from server.dicomweb.datastore import DicomWebStudy
from server.errors import http_answers
from server.jobs.records import BATCH, SCORING, TRAIN
from server.store.study import Study

from .access import ADMINISTRATOR, ANNOTATOR, OWN_PAGE, READER
from .scan_routes import current
from .study_table import counts_of
from .work import Work, carry_request

_ADMIN = [OWN_PAGE, ADMINISTRATOR]
router = APIRouter(tags=["semisam"], dependencies=[READER])

EVENTS = "/events"
EVERY_SECONDS = 1.0
_PICTURE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "Cache-Control": "no-store"}
_LONGEST_SECONDS = 300.0
"""After which a browser asks anew: its log-in may have ended."""
_BEAT_SECONDS = 15.0


class Carry(BaseModel):
    """Which model labels the scans without a final label."""

    model: str = "propagate"


class Score(BaseModel):
    """What is to be found out about the scans."""

    what: Literal["compare", "judge"] = "judge"


class Train(BaseModel):
    """The options of a training, as ``/options`` lists them; what is left out has its default."""

    options: dict[str, Any] = Field(default_factory=dict)


class Stop(BaseModel):
    """A job, by its kind and id."""

    kind: Literal["train", "batch_infer", "scoring"]
    id: str


def _work() -> Work:
    return current().work


def _all() -> dict[str, Any]:
    page = current()
    counts, notice = counts_of(page.rows()), notice_of(page.study)
    return {**page.work.state(), "counts": counts, "next": page.next_step(), "notice": notice}


def notice_of(study: Study) -> str:
    """What everybody should know about a study's DICOM server, empty when all is well."""
    store, told = study.datastore, []
    if isinstance(store, DicomWebStudy) and store.trouble:
        told.append(f"{store.trouble}. What you see is what was known before.")
    if unsent := len(study.pseudo_labels.unsent()):
        labels = "1 pseudo-label is" if unsent == 1 else f"{unsent} pseudo-labels are"
        told.append(f"{labels} not on the DICOM server yet, and sent when that is possible.")
    return " ".join(told)


@router.get("/work", summary="What runs, waits and has ended; progress, time left, failures; disk, memory and GPUs")
def work() -> dict[str, Any]:
    """The same as an event of ``/events``."""
    with http_answers():
        return _all()


@router.get(EVENTS, include_in_schema=False)  # it does not end: no call for programs that try out the description
async def events(request: Request) -> StreamingResponse:
    """Each event is named ``state``."""
    app = app_instance()

    async def stream() -> AsyncIterator[str]:
        begun, said, before = time.monotonic(), 0.0, ""
        yield "retry: 2000\n\n"
        while time.monotonic() - begun < _LONGEST_SECONDS and not (app.jobs is not None and app.jobs.ending):
            try:
                text = json.dumps(await run_in_threadpool(_all))
            except Exception as error:  # the next look may go well
                text = json.dumps({"error": str(error)})
            now = time.monotonic()
            if text != before:
                before, said = text, now
                yield f"event: state\ndata: {text}\n\n"
            elif now - said > _BEAT_SECONDS:
                said = now
                yield ": still here\n\n"
            await asyncio.sleep(EVERY_SECONDS)
            if await request.is_disconnected():
                return

    return StreamingResponse(
        stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


@router.get("/first", summary="The scan to outline first, or next, and why")
def first() -> dict[str, Any]:
    """``scan`` is missing when every scan has a final label. Unlike the strategies, this gives the scan to nobody."""
    with http_answers():
        return current().suggestion(app_instance().suggest())


@router.get("/options", summary="The options of a training: values, defaults, what they mean")
def options() -> dict[str, Any]:
    """The first of several values is the default."""
    with http_answers():
        return {"options": _work().options()}


@router.get("/runs", summary="Earlier trainings, the newest first, with their reports")
def runs() -> dict[str, Any]:
    """Those that are still on disk."""
    with http_answers():
        return {"runs": _work().runs()}


@router.get("/curve", summary="The course of a metric in a training, as SVG", response_class=Response)
def curve(run: str, metric: str) -> Response:
    """``metric`` is one of ``curves`` of ``/runs``."""
    with http_answers():
        policy = {
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "Cache-Control": "no-store",
        }
        return Response(_work().curve(run, metric), media_type="image/svg+xml", headers=policy)


@router.post(
    "/carry", summary=f"{RBAC_ADMIN}Label all scans without a final label", dependencies=[OWN_PAGE, ADMINISTRATOR]
)
def carry(asked: Carry) -> dict[str, Any]:
    """``propagate`` carries the outlines over, ``segment`` asks the trained network."""
    with http_answers():
        return {"id": _work().start(BATCH, carry_request(asked.model))["id"]}


@router.post("/score", summary=f"{RBAC_ANNOTATOR}Compare the scans, or judge them", dependencies=[OWN_PAGE, ANNOTATOR])
def score(asked: Score) -> dict[str, Any]:
    """``compare`` needs no label; ``judge`` estimates how good each pseudo-label is."""
    request = {"method": "representativeness"}
    if asked.what == "judge":
        request = {"method": "uncertainty", "then": ["pseudo_label_quality"]}  # type: ignore[dict-item]
    with http_answers():
        return {"id": _work().start(SCORING, request)["id"]}


@router.post("/train", summary=f"{RBAC_ADMIN}Train", dependencies=_ADMIN)
def train(asked: Train) -> dict[str, Any]:
    """Refused at once when an option or the study stands in the way."""
    with http_answers():
        if "model" in asked.options:
            raise UserError("model: the page trains the one trainer there is. Leave it out.")
        return {"id": _work().start(TRAIN, {**asked.options, "model": "semisam"})["id"]}


@router.post(
    "/stop", summary=f"{RBAC_ADMIN}Stop a job, or withdraw one that waits", dependencies=[OWN_PAGE, ADMINISTRATOR]
)
def stop(asked: Stop) -> dict[str, Any]:
    """What it has done so far stays."""
    with http_answers():
        _work().stop(asked.kind, asked.id)
        return {}
