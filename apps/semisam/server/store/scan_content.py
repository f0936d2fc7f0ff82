"""What a file of a study holds, by its header: a scan, or something that only looks like one."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pydicom

from lib.dicom_series import is_dicom_image

from .file_names import DICOM

logger = logging.getLogger("semisam.store")

_SEGMENT = re.compile(rb"^segment\d+_(id|name)\s*:=", re.IGNORECASE | re.MULTILINE)
"""3D Slicer writes such lines into the header of a segmentation, whatever the file is called."""


_NRRD_HEADER = 65_536


_NO_SCANS = ("SEG", "RTDOSE", "RTSTRUCT", "PR", "SR", "KO")
"""DICOM modalities of objects that are about a scan."""


def is_dicom_folder(folder: Path) -> bool:
    """Whether a folder holds DICOM files; looks at its first three files."""
    with os.scandir(folder) as entries:
        files = sorted(e.path for e in entries if e.is_file() and not e.name.startswith("."))[:3]
    return any(file.lower().endswith(DICOM) or _has_dicom_mark(file) for file in files)


def _has_dicom_mark(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


SLICE = "a slice of a volume: put the slices of each series into a sub-folder"


SEGMENTATION = (
    "it is a segmentation and no scan. Save it from the viewer (Submit Label), or put it into labels/final under the "
    "name of its scan"
)


def _dicom_reason(path: Path) -> str | None:
    try:
        modality = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality")
    except Exception as error:  # pydicom raises many kinds of errors
        logger.info("%s: %s: %s", path.name, type(error).__name__, error)
        return "it is damaged or no DICOM file"
    if modality in _NO_SCANS:
        return SEGMENTATION if modality == "SEG" else f"it is DICOM of the kind {modality} and no scan"
    return None if is_dicom_image(path) else SLICE


def _nrrd_reason(path: Path) -> str | None:
    with path.open("rb") as file:
        header = file.read(_NRRD_HEADER).replace(b"\r\n", b"\n").split(b"\n\n")[0]
    if _SEGMENT.search(header):
        return SEGMENTATION
    return _DETACHED if _NRRD_DATA.search(header) else None


def _mha_reason(path: Path) -> str | None:
    with path.open("rb") as file:
        found = _META_DATA.search(file.read(_NRRD_HEADER))
    return None if found is None or found[1].strip().upper() == b"LOCAL" else _DETACHED


_DETACHED = (
    "it is only the header of a scan, whose values are in another file. Save the scan as one file (.nrrd, .mha or "
    ".nii.gz)"
)


_NRRD_DATA = re.compile(rb"^data ?file: ", re.IGNORECASE | re.MULTILINE)


_META_DATA = re.compile(rb"^ElementDataFile\s*=(.*)$", re.IGNORECASE | re.MULTILINE)


REASONS = {DICOM: _dicom_reason, ".nrrd": _nrrd_reason, ".mha": _mha_reason}
"""What is looked into before it is taken for a scan; how, by ending."""
