"""``/semisam/health`` (ready?) and ``/semisam/health/live`` (alive?), by GET or HEAD, without a log-in.

They answer while a label is being made, and so do the metrics: see ``server.web.one_by_one``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from server.upstream.middleware import add_outermost
from server.upstream.routes import first_time
from server.web.one_by_one import OneByOne

from . import metrics
from .checks import health_of

PATH = "/semisam/health"
LIVE = f"{PATH}/live"
_NOT_READY = 503
_HEADERS = {"Cache-Control": "no-store"}


def install(app: FastAPI, killed: Callable[[], Mapping[str, str]], measured: APIRouter) -> None:
    """Add the routes; once, however often the app is loaded.

    Args:
        app: MONAI Label's web application.
        killed: gives the kinds of jobs that ended without a word.
        measured: the route of the metrics.
    """
    if not first_time(app, "health"):
        return
    prefix, aside = settings.MONAI_LABEL_API_STR, FastAPI(openapi_url=None, redirect_slashes=False)
    for router in (_router(killed), measured):
        app.include_router(router, prefix=prefix)  # for the description of the interface
        aside.include_router(router, prefix=prefix)
    paths = [f"{prefix}{path}" for path in (PATH, LIVE, metrics.PATH)]
    add_outermost(app, OneByOne, aside=aside, paths=paths)


def _router(killed: Callable[[], Mapping[str, str]]) -> APIRouter:
    """The routes; they are plain functions, so that a slow disk holds up a thread and not the web server."""
    router = APIRouter(tags=["semisam"])

    @router.head(PATH, include_in_schema=False)
    @router.get(PATH, summary="Whether the server can work: 200 when it is ready, 503 when it is not")
    def health() -> JSONResponse:
        found = health_of(app_instance().study, killed())
        return JSONResponse(found.to_json(), 200 if found.ready else _NOT_READY, _HEADERS)

    @router.head(LIVE, include_in_schema=False)
    @router.get(LIVE, summary="Whether the server is alive")
    def live() -> JSONResponse:
        return JSONResponse({"status": "live"}, headers=_HEADERS)

    return router
