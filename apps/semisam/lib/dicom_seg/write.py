"""A label as DICOM SEG, each of its frames on the image on which it was drawn."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom

from lib.core.errors import UserError
from lib.core.labels import count_values
from lib.dicom_series import Stack, collect, find_stack

from .moments import stamp, zone_in
from .objects import Frame, Source, build, decimals, of
from .parts import Origin, Segment, text_in
from .picture import write_flat_seg

logger = logging.getLogger("semisam.dicom_seg")

_OFF_GRID = 0.5
"""How far the label's voxels may lie from the images' pixels, in voxels."""


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
    present = _values(label)
    named = [segment for segment in segments if segment.value in present]
    if not present:
        raise UserError(
            "The label is empty: nothing is outlined in it, and a DICOM SEG needs at least one outlined structure.",
            status=422,
        )
    if len(named) < len(present):
        raise UserError("A DICOM SEG needs at least one outlined structure, and a name for each.", status=422)
    try:
        stack = find_stack(series, "the series")
    except UserError as error:
        raise UserError(f"No DICOM SEG can be made for this series: {error}", status=error.status) from error
    if stack is None:
        image = _header(_only_image(series))
        dataset: pydicom.Dataset = write_flat_seg(label, image, named, origin)
    else:
        image = _header(stack.slices[0].path)
        dataset = _of_a_stack(label, affine, stack, named, origin)
    dataset.SeriesDescription = origin.description[:64]
    stamp(dataset, zone_in(image))
    if origin.series is not None:
        dataset.SeriesInstanceUID = origin.series
    return dataset


def _header(file: Path) -> pydicom.Dataset:
    return pydicom.dcmread(file, stop_before_pixels=True, force=True)


def _only_image(series: Path) -> Path:
    """The one image of a 2D scan, which has been looked at before."""
    if series.is_file():
        return series
    return collect(series).slices[0].path


def _of_a_stack(
    label: np.ndarray, affine: np.ndarray, stack: Stack, segments: Sequence[Segment], origin: Origin
) -> pydicom.Dataset:
    """A SEG whose frames lie on the slices of a stack."""
    _check_grid(label, affine, stack)
    planes = stack.on_planes(label)
    if np.count_nonzero(planes) < np.count_nonzero(label):
        logger.warning(
            "Part of the label lies beside the series' images, where the scan was filled up, and is left out"
        )
    image = _header(stack.slices[0].path)
    sources = [
        Source(each.kind, each.uid, None if each.frame is None else each.frame + 1, each.position)
        for each in stack.slices
    ]
    if not planes.any():
        raise UserError("The label lies beside the series' images, where nothing can be stored.", status=422)
    present = _values(planes)
    segments = [each for each in segments if each.value in present]
    seg = build(image, sources, segments, _frames(planes, sources, segments), origin)
    first, step = stack.slices[0], float(np.linalg.norm(stack.affine[:3, 2]))
    measures = of(PixelSpacing=decimals(first.spacing or ()), SpacingBetweenSlices=decimals([step])[0])
    measures.SliceThickness = decimals([first.thickness or step])[0]
    shared = seg.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [of(ImageOrientationPatient=decimals(first.orientation or ()))]
    seg.FrameOfReferenceUID = frame_of_reference(image, first.series)
    seg.PositionReferenceIndicator = image.get("PositionReferenceIndicator") or ""
    return seg


def frame_of_reference(image: pydicom.Dataset, series: str) -> str:
    """UID of the frame of reference of a series; where its images name none, one that is always the same for it."""
    made_up = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'semisam frame of reference {series}').int}"
    return text_in(image, "FrameOfReferenceUID") or made_up


def _frames(planes: np.ndarray, sources: Sequence[Source], segments: Sequence[Segment]) -> Iterator[Frame]:
    """A frame for each segment and plane on which it is."""
    found = [_values(plane) for plane in planes]
    for number, segment in enumerate(segments, start=1):
        for n, (plane, source) in enumerate(zip(planes, sources, strict=True)):
            if segment.value in found[n]:
                yield Frame(number, n + 1, source, plane == segment.value)


def _values(label: np.ndarray) -> set[int]:
    """The values of a label but 0."""
    return {int(value) for value in np.flatnonzero(count_values(label))} - {0}


def _check_grid(label: np.ndarray, affine: np.ndarray, stack: Stack) -> None:
    """Refuse a label that is on another grid than that on which the series is read."""
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*stack.shape, 1.0]
    off = np.abs(corners @ (np.linalg.inv(stack.affine) @ affine).T - corners).max()
    if label.shape != stack.shape or off > _OFF_GRID:
        size = " x ".join(str(n) for n in label.shape)
        raise UserError(
            f"No DICOM SEG can be made of this label: its {size} voxels do not lie on the pixels of the series' "
            f"{stack.shape[2]} images. The scan has changed since it was read: open it again and save the label again.",
            status=422,
        )
