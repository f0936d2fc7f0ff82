"""Stored labels as files to take along."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lib.core.errors import UserError
from lib.formats.volumes import read_volume, write_label
from server.requests.dicom_seg import as_seg
from server.requests.infer_request import InferRequest
from server.store.folder_store import FINAL, StudyDatastore
from server.store.study import Study


@dataclass(frozen=True)
class Download:
    """A temporary file to be sent, and deleted then.

    Args:
        path: where it is.
        name: what it is called at the receiver.
        kind: its media type.
    """

    path: Path
    name: str
    kind: str


def download(study: Study, name: str, tag: str, form: str) -> Download:
    """A stored label as one file, with the values of the study's structures.

    Args:
        study: the study.
        name: of the scan.
        tag: of the label.
        form: ``nifti`` or ``seg``.

    Raises:
        UserError: (404) without such a label, (422) when it cannot be read, or the scan is no DICOM.
    """
    store = study.datastore
    if not store.get_label_by_image_id(name, tag):
        raise UserError(f"There is no label '{tag}' of {name}.", status=404)
    source = store.dicom_of(name) if form == "seg" and isinstance(store, StudyDatastore) else None
    if form == "seg" and source is None:
        raise UserError(f"{name} is no DICOM scan, so that no DICOM SEG can refer to it. Take NIfTI.", status=422)
    image = store.get_image_uri(name)
    scan = read_volume(Path(image))
    handle, file = tempfile.mkstemp(suffix=".nii.gz")
    os.close(handle)
    try:
        write_label(file, study.read_stored(name, tag, scan), scan.affine)
        os.chmod(file, 0o600)
    except BaseException:
        Path(file).unlink(missing_ok=True)
        raise
    if source is None:
        return Download(Path(file), f"{name}_{tag}.nii.gz", "application/gzip")
    facts = study.facts(name, tag)
    told = {"label_names": study.schema.as_dict(), "source": "final" if tag == FINAL else ""}
    request = InferRequest(facts.model or "review", None)
    return Download(Path(as_seg(file, image, source, told, request)), f"{name}_{tag}.dcm", "application/dicom")
