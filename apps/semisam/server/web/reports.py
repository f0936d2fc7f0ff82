"""The reports of finished trainings, served to browsers under ``/semisam/reports/``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance

from lib.recipes.engine.summary import REPORT
from server.upstream.routes import first_time

if TYPE_CHECKING:
    from server.store.study import Study

PATH = "/semisam/reports"
_RUN = re.compile(r"run-[0-9]{8}-[0-9]{6}-[0-9]+")


def address(report: Path) -> str:
    """Where a report is served, below the server's own address."""
    return f"{settings.MONAI_LABEL_API_STR}{PATH}/{report.parent.name}"


def install(app: FastAPI) -> None:
    """Add the route, behind the same log-in as MONAI Label's own; once, however often the app is loaded."""
    if not first_time(app, "reports"):
        return
    router = APIRouter(prefix=PATH, tags=["semisam"])

    @router.get("/{run}", summary="Report of a finished training; 'latest' is the newest one")
    def report(run: str, user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))) -> FileResponse:  # noqa: B008
        return FileResponse(find(app_instance().study, run), media_type="text/html")

    app.include_router(router, prefix=settings.MONAI_LABEL_API_STR)


def find(study: Study, run: str) -> Path:
    """The report of a run, or the newest one for ``latest``.

    Raises:
        HTTPException: (404) when there is none, or ``run`` is no run's name.
    """
    folder = study.folder / "runs"
    if run == "latest":
        found = sorted(folder.glob(f"run-*/{REPORT}"), key=lambda path: path.stat().st_mtime)
        page = found[-1] if found else None
    else:
        page = folder / run / REPORT if _RUN.fullmatch(run) else None
    if page is None or not page.is_file():
        raise HTTPException(status_code=404, detail=f"There is no report {run!r}. A training writes one when it ends.")
    return page
