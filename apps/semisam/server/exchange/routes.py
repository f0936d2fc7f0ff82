"""``/semisam/export``: start an export, see how far it is, take it along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse
from monailabel.config import RBAC_ADMIN, settings
from pydantic import BaseModel, ConfigDict, Field

from server.errors import http_answers
from server.study_page.access import ADMINISTRATOR, OWN_PAGE
from server.upstream.routes import first_time

from .on_request import Exports, Wanted

PATH = "/semisam/export"


class Asked(BaseModel):
    """What is to be exported, as ``main.py export`` has it."""

    model_config = ConfigDict(extra="forbid")

    format: str
    scans: Annotated[list[str], Field(max_length=100_000)] = []
    finals_only: bool = True
    least_quality: Annotated[float | None, Field(ge=0, le=1)] = None
    with_scans: bool = False
    probabilities: bool = False
    channel: Annotated[str, Field(max_length=60)] = "image"
    name: str = ""

    def wanted(self) -> Wanted:
        """The same for the job."""
        return Wanted(
            form=self.format,
            scans=tuple(self.scans),
            pseudo_labels=not self.finals_only,
            least_quality=self.least_quality,
            with_scans=self.with_scans,
            probabilities=self.probabilities,
            channel=self.channel,
            name=self.name,
        )


def install(app: FastAPI, place: Path) -> None:
    """Add the routes; once, however often the app is loaded.

    Args:
        app: MONAI Label's web application.
        place: the study's folder for what does not depend on its labels.
    """
    app.state.semisam_exports_of = Exports(place / "exports")
    if not first_time(app, "exports"):
        return
    router = APIRouter(prefix=PATH, tags=["semisam"], dependencies=[ADMINISTRATOR])

    @router.post("", summary=f"{RBAC_ADMIN}Export labels, or the trained network", dependencies=[OWN_PAGE])
    def start(asked: Asked, request: Request) -> dict[str, Any]:
        """One at a time; the last one is kept until the next begins."""
        with http_answers():
            return _exports(request).start(asked.wanted())

    @router.get("", summary=f"{RBAC_ADMIN}How far the last export is")
    def state(request: Request) -> dict[str, Any]:
        """``status``: running, done, failed or stopped."""
        with http_answers():
            return _exports(request).state()

    @router.delete("", summary=f"{RBAC_ADMIN}Stop the export, or remove the last one", dependencies=[OWN_PAGE])
    def stop(request: Request) -> dict[str, Any]:
        """Nothing of it is left."""
        with http_answers():
            return _exports(request).stop()

    @router.get("/{name}", summary=f"{RBAC_ADMIN}An export as a zip file", response_class=FileResponse)
    def file(name: str, request: Request) -> FileResponse:
        """By its ``id``, once its ``status`` is done."""
        with http_answers():
            path = _exports(request).file(name)
        return FileResponse(
            path, media_type="application/zip", filename=path.name, headers={"Cache-Control": "no-store"}
        )

    app.include_router(router, prefix=settings.MONAI_LABEL_API_STR)


def _exports(request: Request) -> Exports:
    exports: Exports = request.app.state.semisam_exports_of
    return exports
