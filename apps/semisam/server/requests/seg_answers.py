"""Answers as DICOM SEG: ``output=dicom_seg`` of an infer request.

MONAI Label 0.8.5 refuses it (500) for every datastore but its own, after the work is done, and names segments by their
position among those present. Here the app makes the SEG, in the way in which labels are stored on a DICOM server.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import monailabel.endpoints.infer as endpoint
from fastapi.responses import FileResponse
from monailabel.interfaces.tasks.infer_v2 import InferTask

from lib.core.errors import UserError
from lib.dicom_series import collect, is_dicom
from lib.formats.label_files import largest_label
from lib.formats.volumes import read_volume
from server.dicomweb.labels import Source, colours_in, origin_of, pseudo_series, seg_of
from server.store.folder_store import StudyDatastore
from server.store.study import Study

OUTPUT = "dicom_seg"
_KEY = "output"
_MARK = "_asks_the_app_for_seg"


def install() -> None:
    """Tell the app what the client wants back; once, however often the app is loaded."""
    if hasattr(endpoint.run_inference, _MARK):
        return
    plain: Callable[..., Any] = endpoint.run_inference

    def run_inference(
        background_tasks: Any,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = "{}",
        file: Any = None,
        label: Any = None,
        output: Any = None,
    ) -> Any:
        """See ``monailabel.endpoints.infer.run_inference``."""
        if getattr(output, "value", output) != OUTPUT:
            return plain(background_tasks, model, image, session_id, params, file, label, output)
        wishes = json.loads(params) if params else {}
        if isinstance(wishes, dict):
            params = json.dumps({**wishes, _KEY: OUTPUT})
        image_output = endpoint.ResultType.image
        answer = plain(background_tasks, model, image, session_id, params, file, label, image_output)
        return FileResponse(answer.path, media_type="application/dicom", filename=os.path.basename(answer.path))

    setattr(run_inference, _MARK, True)
    endpoint.run_inference = run_inference


def wanted(request: Mapping[str, Any]) -> bool:
    """Whether a request wants a DICOM SEG."""
    return request.get(_KEY) == OUTPUT


def source_of(task: InferTask, study: Study, image_id: str | None, path: str) -> Path:
    """The DICOM files that an answer will refer to; called before there is one.

    Args:
        task: the task that will answer.
        study: the study.
        image_id: id of the scan, None when it is none of the study.
        path: the scan's file or folder.

    Raises:
        UserError: (400) when the task's answer is no segmentation, (422) when the scan is no DICOM.
    """
    if not getattr(task, "gives_structures", True):
        raise UserError(f"{OUTPUT}: this task answers with a map, not with structures. Ask for output=image.")
    store = study.datastore
    if image_id is None:
        files = Path(path) if is_dicom(Path(path)) else None
    else:
        files = store.dicom_of(image_id) if isinstance(store, StudyDatastore) else None
    if files is None:
        raise UserError(
            f"{OUTPUT}: {image_id or 'this image'} is no DICOM scan of the study, so that no DICOM SEG can refer to "
            "it. Ask for output=image.",
            status=422,
        )
    return files


def as_seg(file: str, image: str, files: Path, params: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """Turn a label file into a temporary file with a DICOM SEG; the label file is deleted.

    Args:
        file: the label.
        image: the scan.
        files: its DICOM files, see ``source_of``.
        params: what the task says about the label; its ``label_names`` name the segments.
        request: may have ``label_info`` with colours for them.

    Raises:
        UserError: (422) when nothing was found, or the series cannot carry a segmentation.
    """
    names = params.get("label_names") or {}
    colours = colours_in(request.get("label_info"))
    info = {
        "label_info": [{"name": name, "idx": value, "color": colours.get(name)} for name, value in names.items()],
        "model": request.get("model"),
    }
    person = params.get("source") == "final"
    try:
        if largest_label(file) == 0:
            raise UserError(
                f"{OUTPUT}: nothing was found in this scan, and a DICOM SEG needs at least one structure. "
                "Ask for output=image, or outline the scan by hand.",
                status=422,
            )
        origin = origin_of(info, person=person, series=None if person else pseudo_series(_series_uid(files)))
        seg = seg_of(file, Source(read_volume(image), files), info, origin, None)
    finally:
        Path(file).unlink(missing_ok=True)
    handle, path = tempfile.mkstemp(suffix=".dcm")
    os.close(handle)
    seg.save_as(path)
    return path


def _series_uid(files: Path) -> str:
    return collect(files).slices[0].series
