"""One infer request is answered: its scan is found, the task works, the label is stored or sent."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from lib.core.errors import UserError
from server.options import shown
from server.store.folder_store import ORIGINAL
from server.store.study import Study
from server.upstream.local_datastore import folder_of

from . import dicom_seg
from .infer_request import AskedScan, InferRequest, Task

logger = logging.getLogger("semisam.infer")


def infer(raw: Mapping[str, Any], tasks: Mapping[str, Task], study: Study, session_folder: str) -> dict[str, Any]:
    """Answer an infer request, as MONAILabelApp.infer does.

    Args:
        raw: the request, as it has come from a client.
        tasks: all infer tasks by name.
        study: the study.
        session_folder: where uploaded scans are kept.

    Raises:
        UserError: when something about the request, the scan or the study stands in the way.
    """
    request = InferRequest.parse(raw, tasks)
    task = tasks[request.model]
    scan = find_image(request.image, study, session_folder)
    files = dicom_seg.source_of(task, study, scan) if request.dicom_seg else None
    file, params = task.run(request, scan)
    label = file
    if scan.name is not None and request.save_as is not None:
        try:
            label = study.datastore.save_label(
                scan.name, file, request.save_as, {"model": request.model, "params": params}
            )
        except BaseException:
            Path(file).unlink(missing_ok=True)
            raise
    if files is not None:
        file = dicom_seg.as_seg(file, scan.path, files, params, request)
    return {"label": label, "tag": ORIGINAL, "file": file, "params": params}


def find_image(image: object, study: Study, session_folder: str) -> AskedScan:
    """What a request means by its image.

    Args:
        image: id of a scan, or a path on the server's disk.
        study: where scans are.
        session_folder: where uploaded scans are kept.

    Raises:
        UserError: (404) for unknown ids, and for paths outside the folders that clients may name.
    """
    if not isinstance(image, str) or not image:
        raise UserError("No image is given. Name a scan of the study: image=<id>.")
    if image in study.datastore.list_images():
        return AskedScan(image, study.datastore.get_image_uri(image))
    if os.path.isabs(image) and "\0" not in image and os.path.exists(image):
        path = os.path.realpath(image)
        if any(_inside(path, folder) for folder in _open_folders(study.datastore, session_folder)):
            return AskedScan(study.name_of(path), path)
    count = len(study.datastore.list_images())
    raise UserError(
        f"There is no image {shown(image)} in this study ({count} images). See /datastore/?output=all.", status=404
    )


def _open_folders(datastore: Datastore, session_folder: str) -> list[str]:
    # For a DICOMweb server the datastore's folder is that of its downloaded series.
    folders = [session_folder, tempfile.gettempdir(), folder_of(datastore)]
    return [os.path.realpath(folder) for folder in folders if folder]


def _inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
