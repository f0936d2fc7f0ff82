"""Labels as DICOM Segmentation objects (DICOM PS3.3, A.51): written with dcmqi, read here.

A SEG numbers its segments 1, 2, ... without a gap, so a structure that is absent moves the numbers of those after it:
what a segment is, only its name says. Frames may be left out and come in any order; each says where it lies.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from .errors import UserError
from .volumes import Volume, write_label

logger = logging.getLogger("semisam.dicom_seg")

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

WRITE_SECONDS = 600
_TOOL = "itkimage2segimage"
_OFF_GRID = 0.5
"""How far a frame's corner may lie from the scan's voxel centres, in voxels."""

_CATEGORY = ("123037004", "Anatomical structure")
_ANY_STRUCTURE = ("91723000", "Anatomical structure")
_SNOMED = {
    "aorta": "15825003",
    "bladder": "89837001",
    "brain": "12738006",
    "gallbladder": "28231008",
    "heart": "80891009",
    "kidney": "64033007",
    "left atrium": "82471001",
    "left kidney": "18639004",
    "liver": "10200004",
    "lung": "39607008",
    "pancreas": "15776009",
    "prostate": "41216001",
    "right kidney": "9846003",
    "spleen": "78961009",
    "stomach": "69695003",
}
"""SNOMED CT codes of structures by name."""


@dataclass(frozen=True)
class Segment:
    """One structure of a SEG.

    Args:
        value: voxel value in the label that is written.
        name: what viewers show.
        colour: red, green, blue, 0..255.
    """

    value: int
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Origin:
    """How a SEG came about.

    Args:
        description: of the series, as viewers list it.
        algorithm: what made the label; None for a person alone.
        person: whether a person had the last word.
        series: UID of the series to put it into; None makes a new one.
    """

    description: str
    algorithm: str | None
    person: bool
    series: str | None = None


@dataclass(frozen=True)
class SegHeader:
    """What a SEG says about itself.

    Args:
        uid: its own SOP instance UID.
        scan: UID of the series it belongs to, "" when it does not say.
        names: name and number of its segments.
        created: date and time as text that sorts by age.
    """

    uid: str
    scan: str
    names: tuple[tuple[str, int], ...]
    created: str

    @classmethod
    def of(cls, dataset: pydicom.Dataset) -> SegHeader:
        """Read it from a SEG or its metadata."""
        referenced = dataset.get("ReferencedSeriesSequence") or []
        names = [(_text(s, "SegmentLabel"), int(s.SegmentNumber)) for s in dataset.get("SegmentSequence") or []]
        moments = (("InstanceCreationDate", "InstanceCreationTime"), ("ContentDate", "ContentTime"))
        dates = [(_text(dataset, date), _text(dataset, time)) for date, time in moments]
        created = next(("".join(moment) for moment in dates if moment[0]), "")
        return cls(
            uid=_text(dataset, "SOPInstanceUID"),
            scan=_text(referenced[0], "SeriesInstanceUID") if referenced else "",
            names=tuple((name or f"segment {number}", number) for name, number in names),
            created=created,
        )


def write_seg(
    label: np.ndarray, affine: np.ndarray, series: Path, segments: Sequence[Segment], origin: Origin
) -> pydicom.Dataset:
    """Make a SEG of a label.

    Args:
        label: ``[D, H, W]`` uint8 on the scan's grid, not empty.
        affine: of the scan, RAS.
        series: folder with the scan's DICOM files.
        segments: what the values mean; values that do not occur are left out.
        origin: see there.

    Raises:
        UserError: (422) when the label is empty, or the series cannot carry a segmentation.
    """
    present = {int(v) for v in np.unique(label)} - {0}
    named = [segment for segment in segments if segment.value in present]
    if not present or len(named) < len(present):
        raise UserError("A DICOM SEG needs at least one outlined structure, and a name for each.", status=422)
    tool = shutil.which(_TOOL) or shutil.which(_TOOL, path=str(Path(sys.executable).parent))
    if tool is None:
        raise UserError(f"{_TOOL} (dcmqi) is not installed: pip install dcmqi, or make install.", status=409)
    with tempfile.TemporaryDirectory() as folder:
        image, meta, out = (Path(folder) / name for name in ("label.nii.gz", "meta.json", "seg.dcm"))
        write_label(image, label, affine)
        meta.write_text(json.dumps(_dcmqi_meta(named, origin)), encoding="utf-8")
        command = [
            *[tool, "--inputImageList", str(image), "--inputDICOMDirectory", str(series)],
            *["--outputDICOM", str(out), "--inputMetadata", str(meta), "--skip", "1"],
        ]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=WRITE_SECONDS, errors="replace")
        if ran.returncode or not out.is_file():
            logger.warning("%s: %s", _TOOL, (ran.stdout + ran.stderr).strip()[-1000:])
            raise UserError(
                "No DICOM SEG can be made for this series: its images need a place in the patient and one common size. "
                "Serve such images from a folder instead.",
                status=422,
            )
        dataset = pydicom.dcmread(out)
    dataset.SeriesDescription = origin.description[:64]
    # dcmqi says the second, which does not tell two quick saves apart.
    now = datetime.now()
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S.%f")
    if origin.series is not None:
        dataset.SeriesInstanceUID = origin.series
    return dataset


def read_seg(dataset: pydicom.Dataset, scan: Volume, values: Mapping[int, int] | None = None) -> np.ndarray:
    """The label in a SEG, on its scan's grid.

    Args:
        dataset: the SEG.
        scan: the scan.
        values: voxel value by segment number; None takes the numbers themselves. Segments without a value are left
            out. Where segments overlap, the later one counts.

    Returns:
        ``[D, H, W]`` uint8; all zero when the SEG has no frames.

    Raises:
        UserError: (422) when its frames cannot be decoded, or do not lie on the scan's voxels.
    """
    try:
        pixels = dataset.pixel_array
    except Exception as error:
        # pydicom raises many kinds of errors, among them NotImplementedError for unknown compressions.
        raise UserError(f"The DICOM SEG cannot be decoded ({type(error).__name__}: {error}).", status=422) from error
    frames = pixels[None] if pixels.ndim == 2 else pixels
    kind = str(dataset.get("SegmentationType", "BINARY"))
    least = max(1, int(dataset.get("MaximumFractionalValue", 255)) // 2) if kind == "FRACTIONAL" else 1
    label = np.zeros(scan.shape, dtype=np.uint8)
    from_lps = np.linalg.inv(LPS @ scan.affine)
    found: list[tuple[int, np.ndarray]] = []
    for frame, (number, affine) in zip(frames, _frames_of(dataset), strict=False):
        numbers = [int(n) for n in np.unique(frame) if n] if number is None else [number]
        for each in numbers:
            value = each if values is None else values.get(each, 0)
            mask = frame == each if number is None else frame >= least
            if value and mask.any():
                found.append((value, _place(mask, from_lps @ affine, scan.shape)))
    for value, voxels in sorted(found, key=lambda item: item[0]):
        label[tuple(voxels)] = value
    return label


def _frames_of(dataset: pydicom.Dataset) -> Iterator[tuple[int | None, np.ndarray]]:
    """Each frame's segment number (None when the pixels say it) and its affine ``[4, 4]``: column, row to LPS."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        try:
            axes = _group(groups, shared, "PlaneOrientationSequence").ImageOrientationPatient
            between_rows, between_columns = _group(groups, shared, "PixelMeasuresSequence").PixelSpacing
            position = _group(groups, shared, "PlanePositionSequence").ImagePositionPatient
        except (AttributeError, IndexError) as error:
            raise UserError("The DICOM SEG does not say where its frames lie.", status=422) from error
        along_row, along_column = np.array(axes[:3], dtype=float), np.array(axes[3:], dtype=float)
        affine = np.eye(4)
        affine[:3, 0] = along_row * float(between_columns)
        affine[:3, 1] = along_column * float(between_rows)
        affine[:3, 2] = np.cross(along_row, along_column)
        affine[:3, 3] = np.array(position, dtype=float)
        identified = groups.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        yield (int(identified[0].ReferencedSegmentNumber) if identified else None), affine


def _group(own: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> pydicom.Dataset:
    return (own.get(name) or shared.get(name) or [])[0]


def _place(mask: np.ndarray, to_scan: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Voxel indices ``[3, N]`` in the scan of a frame's pixels; ``to_scan`` is column, row to voxel index."""
    corners = np.array([[x, y, 0, 1] for x in (0, mask.shape[1] - 1) for y in (0, mask.shape[0] - 1)], dtype=float).T
    steps = np.round(to_scan[:3, :2])
    exact = np.concatenate([steps, np.zeros((3, 1)), np.round(to_scan[:3, 3:])], axis=1)
    apart = np.abs(exact @ corners - to_scan[:3] @ corners).max()
    if apart > _OFF_GRID or (np.abs(steps).sum(axis=0) != 1).any():
        raise UserError("The DICOM SEG lies on another grid than its scan. Save it on the scan's own grid.", status=422)
    rows, columns = np.nonzero(mask)
    voxels = (exact[:, :1] * columns + exact[:, 1:2] * rows + exact[:, 3:]).astype(np.int64)
    if (voxels < 0).any() or (voxels >= np.array(shape)[:, None]).any():
        raise UserError("The DICOM SEG reaches beyond its scan. Save it on the scan's own grid.", status=422)
    return voxels


def _dcmqi_meta(segments: Sequence[Segment], origin: Origin) -> dict[str, Any]:
    kind = "AUTOMATIC" if not origin.person else "MANUAL" if origin.algorithm is None else "SEMIAUTOMATIC"
    named = {} if kind == "MANUAL" else {"SegmentAlgorithmName": (origin.algorithm or "semisam")[:64]}
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
                    "SegmentLabel": segment.name[:64],
                    "SegmentDescription": segment.name[:64],
                    "SegmentAlgorithmType": kind,
                    **named,
                    "SegmentedPropertyCategoryCodeSequence": _code(*_CATEGORY),
                    "SegmentedPropertyTypeCodeSequence": _structure(segment.name),
                    "recommendedDisplayRGBValue": list(segment.colour),
                }
                for segment in segments
            ]
        ],
    }


def _structure(name: str) -> dict[str, str]:
    plain = " ".join(name.lower().replace("_", " ").split())
    return _code(_SNOMED[plain], plain.capitalize()) if plain in _SNOMED else _code(*_ANY_STRUCTURE)


def _code(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}


def _text(dataset: pydicom.Dataset, name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else str(value).strip()
