"""The addresses of the page about scans, under ``/semisam/api/``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from monailabel.interfaces.utils.app import app_instance

from lib.core.errors import UserError
from server.errors import http_answers
from server.options import shown

from .access import READER, check_same_origin, mark
from .page import StudyPage, page_for
from .study_table import MOST_ON_PAGE, Filter, Order, Question

router = APIRouter(tags=["semisam"], dependencies=[READER])

ImageId = Annotated[str, Query(description="id of a scan")]
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
_YET_TO_COME = {"Cache-Control": "no-store", "Retry-After": "1"}


def _page() -> StudyPage:
    return page_for(app_instance().study)


@router.get("/mark", summary="The mark that requests which change something bring in the header X-Semisam-Mark")
def own_mark(request: Request) -> dict[str, str]:
    """Given to programs and to the server's own pages."""
    with http_answers():
        check_same_origin(request)
    return {"mark": mark()}


@router.get("/scans", summary="The scans of the study with state, quality, volumes; found, filtered, sorted, by page")
def scans(
    *,
    search: str = "",
    state: Filter = "",
    order: Order = "name",
    descending: bool = False,
    structure: str = "",
    page: Annotated[int, Query(ge=1)] = 1,
    size: Annotated[int, Query(ge=1, le=MOST_ON_PAGE)] = 50,
) -> dict[str, Any]:
    """State may be ``done``, ``open``, ``review``, ``sent_back``; scans of which ``order`` is unknown come last."""
    with http_answers():
        return _page().table(Question(search, state, order, descending, structure, page, size))


@router.get("/picture", summary="A small picture of a scan with its label's contours; 202 while it is being made")
def picture(image: ImageId, key: str = "") -> Response:
    """``key`` is ``picture`` of the scan's row: with it, browsers may keep the answer."""
    with http_answers():
        page = _page()
        _check(page, image)
        path = page.pictures.find(image)
        if path is None:
            return Response(status_code=202, headers=_YET_TO_COME)
        return FileResponse(path, media_type="image/jpeg", headers=_KEPT if key == path.stem else _YET_TO_COME)


def _check(page: StudyPage, image: str) -> None:
    if image not in page.study.datastore.list_images():
        raise UserError(f"There is no image {shown(image)} in this study.", status=404)
