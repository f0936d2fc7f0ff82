"""``GET /semisam/health`` (ready?) and ``GET /semisam/health/live`` (alive?), without a log-in.

MONAI Label answers one request at a time, so these wait, too, while a label is being made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from server.upstream.routes import first_time

from .checks import health_of

PATH = "/semisam/health"
_NOT_READY = 503


def install(app: FastAPI, killed: Callable[[], Mapping[str, str]]) -> None:
    """Add the routes; once, however often the app is loaded.

    Args:
        app: MONAI Label's web application.
        killed: gives the kinds of jobs that ended without a word.
    """
    if not first_time(app, "health"):
        return
    router = APIRouter(prefix=PATH, tags=["semisam"])

    @router.get("", summary="Whether the server can work: 200 when it is ready, 503 when it is not")
    def health() -> JSONResponse:
        found = health_of(app_instance().study, killed())
        return JSONResponse(found.to_json(), 200 if found.ready else _NOT_READY, {"Cache-Control": "no-store"})

    @router.get("/live", summary="Whether the server is alive")
    def live() -> JSONResponse:
        return JSONResponse({"status": "live"}, headers={"Cache-Control": "no-store"})

    app.include_router(router, prefix=settings.MONAI_LABEL_API_STR)
