"""A label as DICOM SEG: volumes with dcmqi, 2D images pixel by pixel."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from ..errors import UserError
from ..volumes import write_label
from .moments import stamp, zone_in
from .parts import CATEGORY, CODING_SCHEME, Origin, Segment, allow_any_script, text_in
from .picture import write_flat_seg

logger = logging.getLogger("semisam.dicom_seg")

WRITE_SECONDS = 600
_TOOL = "itkimage2segimage"


def write_seg(
    label: np.ndarray, affine: np.ndarray, series: Path, segments: Sequence[Segment], origin: Origin
) -> pydicom.Dataset:
    """Make a SEG of a label.

    Args:
        label: ``[D, H, W]`` uint8 on the scan's grid, not empty.
        affine: of the scan, RAS.
        series: folder with the scan's DICOM files, or the scan's only file.
        segments: what the values mean; values that do not occur are left out.
        origin: see there.

    Raises:
        UserError: (422) when the label is empty, or the series cannot carry a segmentation.
    """
    present = {int(v) for v in np.unique(label)} - {0}
    named = [segment for segment in segments if segment.value in present]
    if not present:
        raise UserError("The label is empty: a DICOM SEG needs at least one outlined structure.", status=422)
    if len(named) < len(present):
        raise UserError("A DICOM SEG needs at least one outlined structure, and a name for each.", status=422)
    if label.shape[2] == 1:
        dataset: pydicom.Dataset = write_flat_seg(label, _only_image(series), named, origin)
    else:
        dataset = _with_dcmqi(label, affine, series, named, origin)
    dataset.SeriesDescription = origin.description[:64]
    stamp(dataset, _zone_of(series))
    if origin.series is not None:
        dataset.SeriesInstanceUID = origin.series
    return dataset


def _only_image(series: Path) -> pydicom.Dataset:
    """Header of the one image of a 2D scan."""
    files = [f for f in series.iterdir() if f.is_file() and not f.name.startswith(".")] if series.is_dir() else [series]
    try:
        if len(files) == 1:
            return pydicom.dcmread(files[0], stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        logger.warning("%s: %s", files[0], error)
    raise UserError("No DICOM SEG can be made for this series: it is no single 2D image of one frame.", status=422)


def _zone_of(series: Path) -> tzinfo | None:
    """The time zone that a series names, None when it names none."""
    for file in sorted(series.iterdir()) if series.is_dir() else [series]:
        try:
            return zone_in(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["TimezoneOffsetFromUTC"]))
        except (OSError, pydicom.errors.InvalidDicomError):
            continue  # some other file beside the images
    return None


def _with_dcmqi(
    label: np.ndarray, affine: np.ndarray, series: Path, segments: Sequence[Segment], origin: Origin
) -> pydicom.Dataset:
    tool = shutil.which(_TOOL) or shutil.which(_TOOL, path=str(Path(sys.executable).parent))
    if tool is None:
        raise UserError(f"{_TOOL} (dcmqi) is not installed: pip install dcmqi, or make install.", status=409)
    with tempfile.TemporaryDirectory() as folder:
        image, meta, out = (Path(folder) / name for name in ("label.nii.gz", "meta.json", "seg.dcm"))
        write_label(image, label, affine)
        meta.write_text(json.dumps(_dcmqi_meta(segments, origin)), encoding="utf-8")
        if series.is_file():
            (Path(folder) / "series").mkdir()
            series = Path(shutil.copy(series, Path(folder) / "series")).parent
        command = [
            *[tool, "--inputImageList", str(image), "--inputDICOMDirectory", str(series)],
            *["--outputDICOM", str(out), "--inputMetadata", str(meta), "--skip", "1"],
        ]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=WRITE_SECONDS, errors="replace")
        except subprocess.TimeoutExpired as error:
            text = f"The DICOM SEG was not made within {WRITE_SECONDS} s. Try again when the server has less to do."
            raise UserError(text, status=422) from error
        if ran.returncode or not out.is_file():
            logger.warning("%s: %s", _TOOL, (ran.stdout + ran.stderr).strip()[-1000:])
            raise UserError(
                "No DICOM SEG can be made for this series: its images need a place in the patient and one common size. "
                "Serve such images from a folder instead.",
                status=422,
            )
        dataset = pydicom.dcmread(out)
    allow_any_script(dataset, segments)
    names = {_placeholder(segment): segment.text for segment in segments}
    for each in dataset.SegmentSequence:
        each.SegmentLabel = each.SegmentDescription = names[text_in(each, "SegmentLabel")]
    return dataset


def _placeholder(segment: Segment) -> str:
    """A name in ASCII, the only one that dcmqi takes."""
    return f"segment {segment.value}"


def _dcmqi_meta(segments: Sequence[Segment], origin: Origin) -> dict[str, Any]:
    named = {} if origin.algorithm_name is None else {"SegmentAlgorithmName": origin.algorithm_name}
    return {
        "ContentCreatorName": "semisam",
        "ClinicalTrialSeriesID": "1",
        "ClinicalTrialTimePointID": "1",
        "SeriesDescription": origin.description[:64],
        "SeriesNumber": "300",
        "InstanceNumber": "1",
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": origin.description[:64],
        "BodyPartExamined": "",
        "segmentAttributes": [
            [
                {
                    "labelID": segment.value,
                    "SegmentLabel": _placeholder(segment),
                    "SegmentDescription": _placeholder(segment),
                    "SegmentAlgorithmType": origin.kind,
                    **named,
                    "SegmentedPropertyCategoryCodeSequence": _code(*CATEGORY),
                    "SegmentedPropertyTypeCodeSequence": _code(*segment.code),
                    "recommendedDisplayRGBValue": list(segment.colour),
                }
                for segment in segments
            ]
        ],
    }


def _code(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": CODING_SCHEME, "CodeMeaning": meaning}
