"""Answers as DICOM SEG (``output=dicom_seg``), made in the way in which labels are stored on a DICOM server.

``server.upstream.infer_endpoint`` asks for them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.core.errors import UserError
from lib.dicom_series import collect, is_dicom
from lib.formats.label_files import largest_label
from lib.formats.volumes import read_volume
from server.dicomweb.labels import Source, colours_in, origin_of, pseudo_series, seg_of
from server.store.folder_store import StudyDatastore
from server.store.study import Study

from .infer_request import DICOM_SEG, AskedScan, InferRequest, Task


def source_of(task: Task, study: Study, scan: AskedScan) -> Path:
    """The DICOM files that an answer will refer to; called before there is one.

    Args:
        task: the task that will answer.
        study: the study.
        scan: what is asked about.

    Raises:
        UserError: (400) when the task's answer is no segmentation, (422) when the scan is no DICOM.
    """
    if not task.gives_structures:
        raise UserError(f"{DICOM_SEG}: this task answers with a map, not with structures. Ask for output=image.")
    store = study.datastore
    if scan.name is None:
        files = Path(scan.path) if is_dicom(Path(scan.path)) else None
    else:
        files = store.dicom_of(scan.name) if isinstance(store, StudyDatastore) else None
    if files is None:
        raise UserError(
            f"{DICOM_SEG}: {scan.name or 'this image'} is no DICOM scan of the study, so that no DICOM SEG can refer "
            "to it. Ask for output=image.",
            status=422,
        )
    return files


def as_seg(file: str, image: str, files: Path, params: Mapping[str, Any], request: InferRequest) -> str:
    """Turn a label file into a temporary file with a DICOM SEG; the label file is deleted.

    Args:
        file: the label.
        image: the scan.
        files: its DICOM files, see ``source_of``.
        params: what the task says about the label; its ``label_names`` name the segments.
        request: may have colours for them.

    Raises:
        UserError: (422) when nothing was found, or the series cannot carry a segmentation.
    """
    names = params.get("label_names") or {}
    colours = colours_in(request.label_info)
    info = {
        "label_info": [{"name": name, "idx": value, "color": colours.get(name)} for name, value in names.items()],
        "model": request.model,
    }
    person = params.get("source") == "final"
    try:
        if largest_label(file) == 0:
            raise UserError(
                f"{DICOM_SEG}: nothing was found in this scan, and a DICOM SEG needs at least one structure. "
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
