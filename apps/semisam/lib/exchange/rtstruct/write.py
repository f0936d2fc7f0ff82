"""A label as DICOM RT Structure Set: its contours lie on the slices of its series (PS3.3, A.19, C.8.8.5, C.8.8.6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from lib.core.errors import UserError
from lib.core.geometry import MOST_SHIFT, corner_shift
from lib.dicom_seg import Origin, Segment
from lib.dicom_seg.moments import stamp, zone_in
from lib.dicom_seg.objects import Source, check_uids, made_object, of
from lib.dicom_seg.parts import allow_any_script
from lib.dicom_seg.write import frame_of_reference
from lib.dicom_series import Slice, Stack, find_stack

from .contours import contours_of

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management (retired): the class by which structure sets refer to a study."""
_NAME, _SHORT = 64, 16
_CHARACTERS = 16
"""Of a number in text (VR DS)."""
_STEPS = 4000
"""Coordinates are written to this part of a pixel at least."""


def write_rtstruct(
    label: np.ndarray, affine: np.ndarray, series: Path, segments: Sequence[Segment], origin: Origin
) -> pydicom.Dataset:
    """Make a structure set of a label.

    Args:
        label: ``[D, H, W]`` uint8 on the scan's grid, not empty.
        affine: of the scan, RAS.
        series: folder with the scan's DICOM files, or its only file.
        segments: what the values mean; structures that do not occur are left out.
        origin: how the label came about.

    Raises:
        UserError: (422) when the label is empty, or the series cannot carry contours.
    """
    stack = _stack_of(series)
    if label.shape != stack.shape or corner_shift(affine, stack.affine, label.shape) > MOST_SHIFT:
        raise _refused("the label does not lie on the pixels of its images. Open the scan again and save the label")
    present = {int(value) for value in np.unique(label)} - {0}
    named = [segment for segment in segments if segment.value in present]
    if not present or len(named) < len(present):
        raise _refused("it needs at least one outlined structure, and a name for each")
    image = pydicom.dcmread(stack.slices[0].path, stop_before_pixels=True, force=True)
    check_uids(image, [Source(each.kind, each.uid) for each in stack.slices], "RTSTRUCT")
    dataset = _empty(image, origin)
    frame = frame_of_reference(image, stack.slices[0].series)
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = (
        frame,
        image.get("PositionReferenceIndicator") or "",
    )
    dataset.ReferencedFrameOfReferenceSequence = [_references(image, stack, frame)]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    planes = stack.on_planes(label)
    for number, segment in enumerate(named, start=1):
        _add(dataset, number, segment, [*_contours(planes == segment.value, stack.slices)], frame)
    for roi in dataset.StructureSetROISequence:
        roi.ROIGenerationAlgorithm = origin.kind
    allow_any_script(dataset, named)
    stamp(dataset, zone_in(image))
    dataset.StructureSetDate, dataset.StructureSetTime = dataset.InstanceCreationDate, dataset.InstanceCreationTime
    for name in ("ContentDate", "ContentTime"):
        delattr(dataset, name)
    return dataset


def _stack_of(series: Path) -> Stack:
    try:
        stack = find_stack(series, "the series")
    except UserError as error:
        raise UserError(f"No RTSTRUCT can be made for this series: {error}", status=error.status) from error
    if stack is None:
        raise _refused("a single 2D image has no place in the patient. Export it as SEG")
    return stack


def _refused(reason: str) -> UserError:
    return UserError(f"No RTSTRUCT can be made for this series: {reason}.", status=422)


def _empty(image: pydicom.Dataset, origin: Origin) -> FileDataset:
    """A structure set without structures. Implicit VR: only there a contour may be longer than 64 KiB (C.8.8.6)."""
    dataset = made_object(image, RTStructureSetStorage, ImplicitVRLittleEndian)
    dataset.Modality, dataset.SeriesNumber, dataset.OperatorsName = "RTSTRUCT", 301, ""
    dataset.SeriesDescription = origin.description[:_NAME]
    dataset.StructureSetLabel, dataset.StructureSetName = "semisam"[:_SHORT], origin.description[:_NAME]
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _references(image: pydicom.Dataset, stack: Stack, frame: str) -> Dataset:
    """The images that the contours are drawn on."""
    images = {each.uid: each.kind for each in stack.slices}
    references = [of(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid) for uid, kind in images.items()]
    of_series = of(SeriesInstanceUID=stack.slices[0].series, ContourImageSequence=references)
    of_study = of(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=image.StudyInstanceUID,
        RTReferencedSeriesSequence=[of_series],
    )
    return of(FrameOfReferenceUID=frame, RTReferencedStudySequence=[of_study])


def _add(dataset: Dataset, number: int, segment: Segment, contours: list[Dataset], frame: str) -> None:
    """Add a structure with its contours."""
    dataset.StructureSetROISequence.append(
        of(ROINumber=number, ReferencedFrameOfReferenceUID=frame, ROIName=segment.text)
    )
    dataset.ROIContourSequence.append(
        of(ROIDisplayColor=list(segment.colour), ContourSequence=contours, ReferencedROINumber=number)
    )
    dataset.RTROIObservationsSequence.append(
        of(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
    )


def _contours(planes: np.ndarray, slices: Sequence[Slice]) -> Iterator[Dataset]:
    """The contours of a structure, slice by slice."""
    for plane, each in zip(planes, slices, strict=True):
        if not plane.any():
            continue
        image = of(ReferencedSOPClassUID=each.kind, ReferencedSOPInstanceUID=each.uid)
        if each.frame is not None:
            image.ReferencedFrameNumber = each.frame + 1
        for contour in contours_of(plane):
            yield of(
                ContourImageSequence=[image],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(contour),
                ContourData=_as_text(_in_mm(contour, each), each),
            )


def _in_mm(contour: np.ndarray, plane: Slice) -> np.ndarray:
    """Points ``[N, 3]`` in mm, LPS, of columns and rows ``[N, 2]``."""
    assert plane.spacing is not None
    steps = plane.axes[:2] * np.array([[plane.spacing[1]], [plane.spacing[0]]])
    result: np.ndarray = np.array(plane.position) + contour @ steps
    return result


def _as_text(points: np.ndarray, plane: Slice) -> list[str]:
    """Coordinates with as many digits as the size of a pixel asks for, and as fit."""
    assert plane.spacing is not None
    digits = max(2, math.ceil(-math.log10(min(plane.spacing) / _STEPS)))
    before = len(f"{np.abs(points).max():.0f}") + 2  # with a sign and the point
    digits = min(digits, _CHARACTERS - before)
    return [f"{value:.{digits}f}" for value in points.ravel() + 0.0]
