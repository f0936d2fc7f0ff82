"""One infer request: from the client's words to a scan, to the task, to the stored or sent label."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask

from lib.core.errors import UserError
from server.options import INFER, check_keys, check_name, is_true, shown
from server.store.folder_store import FINAL, ORIGINAL, plain_name
from server.store.study import Study

from . import seg_answers

logger = logging.getLogger("semisam.infer")


def check_infer(request: Mapping[str, Any], infers: Mapping[str, InferTask]) -> InferTask:
    """The task a request asks for.

    Raises:
        UserError: for an unknown model or option, and for a request to write what people write.
    """
    name = check_name(request.get("model"), infers, "model")
    task = infers[name]
    more = task.more_keys() if hasattr(task, "more_keys") else ()
    check_keys(request, [*task.config(), *more], INFER, f"Model {name!r}")
    if request.get("label_prompt") == []:
        # OHIF would draw the answer with the structures' names mixed up.
        raise UserError("No structure is ticked. Tick at least one in the list, or use Auto-Segmentation.")
    if is_true(request.get("save_label")):
        if plain_name(request.get("label_tag") or ORIGINAL, "tag") == FINAL:
            raise UserError(
                "Labels with the tag 'final' are saved by people only. Save the result as 'original', review it, and "
                "submit it from the viewer.",
                status=409,
            )
        if not getattr(task, "makes_labels", True):
            raise UserError(f"Model {name!r} makes no label that could be saved.")
    return task


def infer(
    request: Mapping[str, Any], infers: Mapping[str, InferTask], study: Study, session_folder: str
) -> dict[str, Any]:
    """Answer an infer request, as MONAILabelApp.infer does.

    Raises:
        UserError: when something about the request, the scan or the study stands in the way.
    """
    task = check_infer(request, infers)
    request = dict(request)
    image_id, path = find_image(request.get("image"), study, session_folder)
    request.update(image=path, image_id=image_id, description=task.description)
    as_seg = seg_answers.wanted(request)
    if as_seg:
        files = seg_answers.source_of(task, study, image_id, path)
        request.update(result_extension=".nii.gz", result_dtype="uint8")
    file, params = task(request)
    label = file
    if image_id is not None and is_true(request.get("save_label")):
        tag = str(getattr(request.get("label_tag"), "value", request.get("label_tag")) or ORIGINAL)
        try:
            label = study.datastore.save_label(image_id, file, tag, {"model": request["model"], "params": params})
        except BaseException:
            Path(str(file)).unlink(missing_ok=True)
            raise
    if as_seg:
        file = seg_answers.as_seg(file, path, files, params, request)
    return {"label": label, "tag": ORIGINAL, "file": file, "params": params}


def find_image(image: object, study: Study, session_folder: str) -> tuple[str | None, str]:
    """What a request means by its image.

    Args:
        image: id of a scan, or a path on the server's disk.
        study: where scans are.
        session_folder: where uploaded scans are kept.

    Returns:
        id (None for a scan that is not of the study) and path.

    Raises:
        UserError: (404) for unknown ids, and for paths outside the folders that clients may name.
    """
    if not isinstance(image, str) or not image:
        raise UserError("No image is given. Name a scan of the study: image=<id>.")
    if image in study.datastore.list_images():
        return image, study.datastore.get_image_uri(image)
    if os.path.isabs(image) and "\0" not in image and os.path.exists(image):
        path = os.path.realpath(image)
        if any(_inside(path, folder) for folder in _open_folders(study.datastore, session_folder)):
            return study.name_of(path), path
    count = len(study.datastore.list_images())
    raise UserError(
        f"There is no image {shown(image)} in this study ({count} images). See /datastore/?output=all.", status=404
    )


def _open_folders(datastore: Datastore, session_folder: str) -> list[str]:
    folders = [session_folder, tempfile.gettempdir()]
    if isinstance(datastore, LocalDatastore):
        # For a DICOMweb server this is the folder of its downloaded series.
        folders.append(datastore._datastore_path)
    return [os.path.realpath(folder) for folder in folders if folder]


def _inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
