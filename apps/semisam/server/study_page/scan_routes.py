"""The addresses of the page about scans, under ``/semisam/api/``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.config import RBAC_ANNOTATOR, settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance
from pydantic import BaseModel
from starlette.background import BackgroundTask

from lib.core.errors import UserError
from server.errors import http_answers
from server.options import shown
from server.people.audit_log import note_scan
from server.web.request_head import check_same_origin

from .access import ANNOTATOR, OWN_PAGE, READER, mark
from .downloads import download
from .layers import SCAN
from .outlines import take_outline
from .page import StudyPage, page_for
from .scan_rows import ScanRow
from .study_table import MOST_ON_PAGE, Filter, Order, Question
from .work import Work

router = APIRouter(tags=["semisam"], dependencies=[READER])

Tag = Literal["final", "original"]
ImageId = Annotated[str, Query(description="id of a scan")]
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
_YET_TO_COME = {"Cache-Control": "no-store", "Retry-After": "1"}


class Asked(BaseModel):
    """What is done to a scan: its id, the version of the pseudo-label that was seen, and who does it."""

    image: str
    version: str = ""
    by: str = ""


def current() -> StudyPage:
    """The page of the study that is served."""
    app = app_instance()
    return page_for(app.study, lambda: StudyPage(app.study, app.infer, Work(app.study, app.trainer, app.jobs)))


@router.get("/mark", summary="The mark that requests which change something bring in the header X-Semisam-Mark")
def own_mark(request: Request) -> dict[str, str]:
    """Given to programs and to the server's own pages."""
    with http_answers():
        check_same_origin(request.scope)
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
        return current().table(Question(search, state, order, descending, structure, page, size))


@router.get("/structures", summary="Names, values and colours of the structures")
def structures() -> dict[str, Any]:
    """The colours are those of the page, of OHIF's panel and of DICOM SEG."""
    with http_answers():
        return {"structures": current().structures()}


@router.get("/picture", summary="A small picture of a scan with its label's contours; 202 while it is being made")
def picture(image: ImageId, key: str = "") -> Response:
    """``key`` is ``picture`` of the scan's row: with it, browsers may keep the answer."""
    with http_answers():
        page = current()
        _check(page, image)
        path = page.pictures.find(image)
        if path is None:
            return Response(status_code=202, headers=_YET_TO_COME)
        return FileResponse(path, media_type="image/jpeg", headers=_KEPT if key == path.stem else _YET_TO_COME)


@router.get("/scan", summary="One scan: what its row says, its planes and layers, what readers have done")
def scan(image: ImageId) -> dict[str, Any]:
    """Intensities are ``slope * value + intercept`` of the values that ``/slice`` gives."""
    with http_answers():
        page = current()
        return page.scan(_row(page, image))


@router.get("/slice", summary="A slice of a scan or of what lies over it, as plain numbers", response_class=Response)
def one_slice(
    *, image: ImageId, plane: Literal["axial", "coronal", "sagittal"], index: int, layer: str = SCAN, key: str = ""
) -> Response:
    """Rows from the top, columns from the left: int16 (little-endian) of the scan, uint8 of a layer.

    ``layer`` is ``scan``, ``final``, ``pseudo-label``, ``prediction`` or ``uncertainty``; ``key`` is the layer's of
    ``/scan``: with it, browsers may keep the answer.
    """
    with http_answers():
        page = current()
        _check(page, image)
        looked = page.layers.scan(image).looked
        if plane not in looked.planes or not 0 <= index < looked.count(plane):
            raise UserError(f"There is no slice {index} of the plane {plane}.", status=404)
        array = None if layer == SCAN else page.layers.layer(image, layer)
        values = looked.cut(plane, index, array).astype("<i2" if array is None else np.uint8)
        return Response(values.tobytes(), media_type="application/octet-stream", headers=_KEPT if key else _YET_TO_COME)


@router.post("/accept", summary=f"{RBAC_ANNOTATOR}Make a pseudo-label final", dependencies=[OWN_PAGE])
def accept(request: Request, asked: Asked, user: User = ANNOTATOR) -> dict[str, Any]:
    """The pseudo-label that was looked at, and no other: ``version`` is that of ``/scan``."""
    with _acting(request, asked.image) as page:
        warnings = page.acts.accept(asked.image, asked.version, _name(asked.by, user))
        return {**page.described(_row(page, asked.image)), "warnings": warnings}


@router.post("/send_back", summary=f"{RBAC_ANNOTATOR}Have a scan outlined again first", dependencies=[OWN_PAGE])
def send_back(request: Request, asked: Asked, user: User = ANNOTATOR) -> dict[str, Any]:
    """All strategies offer it before others; its pseudo-label stays until then."""
    with _acting(request, asked.image) as page:
        page.acts.send_back(asked.image, asked.version, _name(asked.by, user))
        return page.described(_row(page, asked.image))


@router.post("/undo", summary=f"{RBAC_ANNOTATOR}Take back one's last act on a scan", dependencies=[OWN_PAGE])
def undo(request: Request, asked: Asked, user: User = ANNOTATOR) -> dict[str, Any]:
    """Once, and only as long as nobody has changed the label since."""
    with _acting(request, asked.image) as page:
        warnings = page.acts.undo(asked.image, _name(asked.by, user))
        return {**page.described(_row(page, asked.image)), "warnings": warnings}


@router.post("/outline", summary=f"{RBAC_ANNOTATOR}Make a label from a file final", dependencies=[OWN_PAGE])
def outline(
    request: Request,
    image: ImageId,
    file: UploadFile,
    by: Annotated[str, Form()] = "",
    user: User = ANNOTATOR,
) -> dict[str, Any]:
    """A label map (NIfTI, NRRD, MetaImage), DICOM SEG or RTSTRUCT whose names are the study's structures."""
    with _acting(request, image) as page:
        warnings = take_outline(page.study, page.acts, image, _name(by, user), (file.filename or "", file.file))
        return {**page.described(_row(page, image)), "warnings": warnings}


@router.get("/label", summary="A stored label as NIfTI or DICOM SEG", response_class=FileResponse)
def label(image: ImageId, tag: Tag = "final", form: Literal["nifti", "seg"] = "nifti") -> FileResponse:
    """A SEG only of scans that are DICOM; values and names are those of the study's structures."""
    with http_answers():
        page = current()
        _check(page, image)
        made = download(page.study, image, tag, form)
        return FileResponse(
            made.path, media_type=made.kind, filename=made.name, background=BackgroundTask(made.path.unlink, True)
        )


@contextmanager
def _acting(request: Request, image: str) -> Iterator[StudyPage]:
    """What a reader does to a scan, which the audit log is told of."""
    with http_answers():
        note_scan(request, image)
        page = current()
        _check(page, image)
        yield page


def _check(page: StudyPage, image: str) -> None:
    if image not in page.study.datastore.list_images():
        raise UserError(f"There is no image {shown(image)} in this study.", status=404)


def _row(page: StudyPage, image: str) -> ScanRow:
    row = page.row(image)
    if row is None:
        raise UserError(f"There is no image {shown(image)} in this study.", status=404)
    return row


def _name(by: str, user: User) -> str:
    """Who acts: whoever has logged in, else the name that is given."""
    return str(user.username) if settings.MONAI_LABEL_AUTH_ENABLE else by
