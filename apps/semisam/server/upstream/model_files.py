"""The network in service, uploaded and taken out of service under ``/model/``.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/model.py``, ``update_model`` and ``delete_model``.
- Wrong: it writes whatever is sent over the network in service, keeps no copy, and lets annotators do so although it
  describes this as something for administrators.
- Done: routes before MONAI Label's: a file is loaded and asked once before it takes the place of another, which is
  kept.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/model.py
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI, UploadFile
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import file_checksum

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.specialists import check_checkpoint
from server.errors import http_answers

from .routes import first_time, put_first

if TYPE_CHECKING:
    from server.store.study import Study

logger = logging.getLogger("semisam.models")

WITH_FILE = ("segment", "uncertainty")
"""Models that are the trained network; all others have no file of their own."""
KEPT = "replaced"
"""Folder beside the network in service with those of before."""
MOST_KEPT = 5


def install(app: FastAPI) -> None:
    """Put the routes in the place of MONAI Label's; once, however often the app is loaded."""
    if not first_time(app, "models"):
        return
    router = APIRouter(prefix="/model", tags=["Model"])
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

    @router.put("/{model}", summary="Put a trained network into service, after a look at it; the one of before is kept")
    def upload(model: str, file: UploadFile, user: User = admin) -> dict[str, Any]:
        with http_answers():
            return put(app_instance().study, model, file)

    @router.delete("/{model}", summary="Take the trained network out of service; it is kept")
    def delete(model: str, user: User = admin) -> dict[str, Any]:
        with http_answers():
            return take_out(app_instance().study, model)

    put_first(app, router)


def put(study: Study, model: str, file: UploadFile) -> dict[str, Any]:
    """Put an uploaded network into service.

    Args:
        study: the study.
        model: ``segment`` or ``uncertainty``: both ask the same network.
        file: the upload.

    Returns:
        ``checksum`` and ``modified_time`` as MONAI Label gives them, ``kept``: name of the file of before, or "".

    Raises:
        UserError: (404) for a model without a file, (409) when the network is for other structures, (422) when the file
            is no network that could answer. The one in service stays as it is.
    """
    _check_model(model)
    published = study.published
    published.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".upload-", suffix=".pt", dir=published.parent)
    try:
        with os.fdopen(handle, "wb") as copy:
            shutil.copyfileobj(file.file, copy)
        try:
            check_checkpoint(Path(name), study.schema.names)
        except UserError as error:
            raise UserError(_refusal(error, study), status=error.status) from error
        kept = _keep(published) if published.is_file() else ""
        write_whole(published, lambda whole: shutil.copyfile(name, whole))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
    logger.info("An uploaded network is in service; the one of before is kept as %s", kept or "there was none")
    status = published.stat()
    return {"checksum": file_checksum(str(published)), "modified_time": int(status.st_mtime), "kept": kept}


def take_out(study: Study, model: str) -> dict[str, Any]:
    """Take the network out of service and keep it.

    Returns:
        ``kept``: name of its file.

    Raises:
        UserError: (404) for a model without a file, and when none is in service.
    """
    _check_model(model)
    published = study.published
    if not published.is_file():
        raise UserError("There is no trained network in service that could be deleted.", status=404)
    kept = _keep(published)
    with suppress(FileNotFoundError):
        published.unlink()
    logger.info("The network is out of service and kept as %s", kept)
    return {"kept": kept}


def _check_model(model: str) -> None:
    if model not in WITH_FILE:
        raise UserError(
            f"The model {model[:80]!r} has no file. Only the trained network has one that can be changed: 'segment'.",
            status=404,
        )


def _refusal(error: UserError, study: Study) -> str:
    """Why an upload is refused: its file has another name at the sender's."""
    if error.status == 409:
        names = ", ".join(study.schema.names)
        return (
            "This network does not fit here. Either it was trained for other structures than those of this study "
            f"({names}), or it needs nnU-Net, which is not installed. The network in service stays."
        )
    return (
        "The file is damaged or no trained network of this app. Upload a file that GET /model/segment of a semisam "
        "server has given. The network in service stays."
    )


def _keep(published: Path) -> str:
    """Copy the network in service to where those of before are; returns its name there."""
    folder = published.parent / KEPT
    folder.mkdir(exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 1
    while (target := folder / f"{published.stem}-{stamp}-{number}{published.suffix}").exists():
        number += 1
    write_whole(target, lambda whole: shutil.copyfile(published, whole))
    old = sorted(folder.glob(f"{published.stem}-*{published.suffix}"), key=lambda path: path.stat().st_mtime)
    for path in old[:-MOST_KEPT]:
        path.unlink(missing_ok=True)
    return target.name
