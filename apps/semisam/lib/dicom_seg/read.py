"""The label in a DICOM SEG, on its scan's grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pydicom

from lib.core.errors import UserError
from lib.core.geometry import Volume

from .decode import frames_of

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_OFF_GRID = 0.5 + 2e-3
"""How far a frame's corner may lie from the scan's voxel centres, in voxels: half of one where a tilted series was
resampled."""


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
    frames = frames_of(dataset)
    kind = str(dataset.get("SegmentationType", "BINARY"))
    least = max(1, int(dataset.get("MaximumFractionalValue", 255)) // 2) if kind == "FRACTIONAL" else 1
    numbers = _numbers_of(dataset)
    if len(numbers) < len(frames):
        raise UserError("The DICOM SEG does not say what its frames show.", status=422)
    # The image is the only one of its series, and rarely has a place in the patient: its pixels are the SEG's.
    flat = scan.flat and frames.shape[1:] == (scan.shape[1], scan.shape[0])
    from_lps = np.linalg.inv(LPS @ scan.affine)
    affines = [np.eye(4)] * len(frames) if flat else [from_lps @ affine for affine in _affines_of(dataset)]
    shown = [
        (each if values is None else values.get(each, 0), at, each)
        for at, (frame, number) in enumerate(zip(frames, numbers, strict=False))
        for each in ([int(n) for n in np.unique(frame) if n] if number is None else [number])
    ]
    label = np.zeros(scan.shape, dtype=np.uint8)
    for value, at, each in sorted(shown):
        mask = frames[at] == each if numbers[at] is None else frames[at] >= least
        if value and mask.any():
            label[tuple(_place(mask, affines[at], scan.shape))] = value
    return label


def _numbers_of(dataset: pydicom.Dataset) -> list[int | None]:
    """Each frame's segment number; None when the pixels say it."""
    shared = _shared(dataset)
    named = [
        groups.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        for groups in dataset.get("PerFrameFunctionalGroupsSequence") or []
    ]
    return [int(each[0].ReferencedSegmentNumber) if each else None for each in named]


def _affines_of(dataset: pydicom.Dataset) -> Iterator[np.ndarray]:
    """Each frame's affine ``[4, 4]``: column, row to LPS."""
    shared = _shared(dataset)
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
        yield affine


def _shared(dataset: pydicom.Dataset) -> pydicom.Dataset:
    return (dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]


def _group(own: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> pydicom.Dataset:
    return (own.get(name) or shared.get(name) or [])[0]


def _place(mask: np.ndarray, to_scan: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Voxel indices ``[3, N]`` in the scan of a frame's pixels; ``to_scan`` is column, row to voxel index."""
    corners = np.array([[x, y, 0, 1] for x in (0, mask.shape[1] - 1) for y in (0, mask.shape[0] - 1)], dtype=float).T
    steps = np.round(to_scan[:3, :2])
    # Half voxels go up, as where a label is laid on the slices of a tilted series.
    first = np.floor(to_scan[:3, 3:] + 0.5 + 1e-3)
    exact = np.concatenate([steps, np.zeros((3, 1)), first], axis=1)
    apart = np.abs(exact @ corners - to_scan[:3] @ corners).max()
    if apart > _OFF_GRID or (np.abs(steps).sum(axis=0) != 1).any():
        raise UserError("The DICOM SEG lies on another grid than its scan. Save it on the scan's own grid.", status=422)
    rows, columns = np.nonzero(mask)
    voxels = (exact[:, :1] * columns + exact[:, 1:2] * rows + exact[:, 3:]).astype(np.int64)
    if (voxels < 0).any() or (voxels >= np.array(shape)[:, None]).any():
        raise UserError("The DICOM SEG reaches beyond its scan. Save it on the scan's own grid.", status=422)
    result: np.ndarray = voxels
    return result
