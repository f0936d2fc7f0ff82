"""The structures in a DICOM RT Structure Set, on their scan's grid (PS3.3, C.8.8.5 and C.8.8.6).

A contour is read where its coordinates lie. The images that it refers to are a check: contours of images that the scan
does not have are those of another scan, even where they would fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pydicom

from lib.core.errors import UserError, listed
from lib.core.geometry import Volume
from lib.dicom_seg.parts import text_in
from lib.dicom_series import Stack

from .filling import combined, filled

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_EXCLUSIVE = "CLOSEDPLANAR_XOR"
_CLOSED = ("CLOSED_PLANAR", _EXCLUSIVE)
_FLAT = 0.05
"""How far the points of a contour may lie beside its plane, in slices."""
_OFF_SLICE = 0.3
"""How far a contour's plane may lie beside a slice, in slices."""
_LEAST_POINTS = 3


@dataclass(frozen=True, eq=False)
class Roi:
    """A structure of a structure set.

    Args:
        number: its number there.
        name: as people have given it.
        contours: ``[N, 3]`` points in mm, LPS, of each closed contour.
        exclusive: whether contours are combined by exclusive or, as those of the type CLOSEDPLANAR_XOR are.
        kinds: types of its contours that are none with an inside, such as POINT.
        images: UIDs of the images that its contours say they are drawn on.
    """

    number: int
    name: str
    contours: tuple[np.ndarray, ...]
    exclusive: bool
    kinds: tuple[str, ...]
    images: frozenset[str]


@dataclass(frozen=True, eq=False)
class RtStruct:
    """What a structure set holds.

    Args:
        uid: its own SOP instance UID.
        series: UIDs of the series that it refers to.
        images: UIDs of the images that it refers to as a whole.
        frames: UIDs of the frames of reference that it refers to.
        rois: its structures.
        damaged: what cannot be read in it, "" as a rule.
    """

    uid: str
    series: tuple[str, ...]
    images: frozenset[str]
    frames: tuple[str, ...]
    rois: tuple[Roi, ...]
    damaged: str = ""

    @classmethod
    def of(cls, dataset: pydicom.Dataset) -> RtStruct:
        """Read it from a structure set."""
        frames = dataset.get("ReferencedFrameOfReferenceSequence") or []
        series = [
            each
            for frame in frames
            for study in frame.get("RTReferencedStudySequence") or []
            for each in study.get("RTReferencedSeriesSequence") or []
        ]
        images = {uid for each in series for uid in _image_uids(each)}
        contours = {
            int(each.get("ReferencedROINumber") or 0): each.get("ContourSequence") or []
            for each in dataset.get("ROIContourSequence") or []
        }
        rois, damaged = [], ""
        for each in dataset.get("StructureSetROISequence") or []:
            number = int(each.get("ROINumber") or 0)
            try:
                rois.append(_roi(number, text_in(each, "ROIName"), contours.get(number, [])))
            except (ValueError, TypeError) as error:
                damaged = f"the contours of {text_in(each, 'ROIName')!r} cannot be read ({error})"
        return cls(
            uid=text_in(dataset, "SOPInstanceUID"),
            series=tuple(dict.fromkeys(text_in(each, "SeriesInstanceUID") for each in series)),
            images=frozenset(images),
            frames=tuple(dict.fromkeys(uid for frame in frames if (uid := text_in(frame, "FrameOfReferenceUID")))),
            rois=tuple(rois),
            damaged=damaged,
        )


def _image_uids(dataset: pydicom.Dataset) -> Iterator[str]:
    for each in dataset.get("ContourImageSequence") or []:
        if uid := text_in(each, "ReferencedSOPInstanceUID"):
            yield uid


def _roi(number: int, name: str, contours: Sequence[pydicom.Dataset]) -> Roi:
    points, kinds, images, exclusive = [], [], set(), False
    for each in contours:
        kind = text_in(each, "ContourGeometricType").upper()
        data = np.array([float(v) for v in each.get("ContourData") or []]).reshape(-1, 3)
        if kind not in _CLOSED or len(data) < _LEAST_POINTS:
            kinds.append(kind if kind not in _CLOSED else f"{kind} of {len(data)} points")
            continue
        points.append(data)
        images |= set(_image_uids(each))
        exclusive = exclusive or kind == _EXCLUSIVE
    name = name or f"structure {number}"
    return Roi(number, name, tuple(points), exclusive, tuple(dict.fromkeys(kinds)), frozenset(images))


def check_references(found: RtStruct, numbers: Sequence[int], images: frozenset[str], frame: str) -> None:
    """Look whether structures were drawn on these images.

    Images that their contours name go before the frame of reference, of which some programs make up one.

    Args:
        found: the structure set.
        numbers: of the structures.
        images: UIDs of the scan's images.
        frame: UID of their frame of reference, "" without one.

    Raises:
        UserError: (422) when they refer to other images, or to none and another frame of reference.
    """
    named = {uid for roi in found.rois if roi.number in numbers for uid in roi.images}
    strange = sorted(named - images)
    if strange:
        raise UserError(
            f"Its contours refer to {len(strange)} image(s) that the scan does not have, the first is {strange[0]}. "
            "It was drawn on another series, or images of the scan are missing.",
            status=422,
        )
    if not named and frame and found.frames and frame not in found.frames:
        raise UserError(
            f"It lies in another frame of reference ({found.frames[0]}) than the scan ({frame}).", status=422
        )


def read_rtstruct(found: RtStruct, scan: Volume, number: int, stack: Stack | None = None) -> np.ndarray:
    """A structure on its scan's grid.

    Of contours of a structure on the same slice, one within another is a hole.

    Args:
        found: the structure set.
        scan: the scan.
        number: of the structure.
        stack: the scan's slices, if it is a DICOM series: where a tilted one was resampled to an upright grid, a
            contour counts on the pixels of its own slice.

    Returns:
        ``[D, H, W]`` boolean.

    Raises:
        UserError: (422) when it has no closed contours, or they do not lie on the scan's slices.
    """
    roi = next(each for each in found.rois if each.number == number)
    if not roi.contours:
        kinds = f" ({', '.join(roi.kinds)} only)" if roi.kinds else ""
        raise UserError(f"{roi.name!r} has no closed contours{kinds}.", status=422)
    to_voxels = np.linalg.inv(_TO_LPS @ scan.affine)
    voxels = [points @ to_voxels[:3, :3].T + to_voxels[:3, 3] for points in roi.contours]
    axis = _axis_across(voxels)
    if axis is None:
        raise UserError(f"The contours of {roi.name!r} do not lie in planes along the scan's slices.", status=422)
    heights = np.array([contour[:, axis].mean() for contour in voxels])
    at = np.floor(heights + 0.5).astype(int)
    _check_slices(roi.name, heights, at, scan.shape[axis])
    if stack is not None and not stack.upright and axis == 2:
        apart = np.pad(stack.corners - stack.shifts, ((0, 0), (0, 1)))
        voxels = [contour + apart[index] for index, contour in zip(at, voxels, strict=True)]
    mask = np.zeros(scan.shape, dtype=bool)
    across = np.moveaxis(mask, axis, 0)
    others = [n for n in range(3) if n != axis]
    for index, contour in zip(at, voxels, strict=True):
        plane = across[index]
        _check_within(roi.name, contour[:, others], plane.shape)
        part = filled(contour[:, others[::-1]], plane.shape)
        together = plane ^ part if roi.exclusive else combined(plane, part)
        if together is None:
            raise UserError(
                f"Two contours of {roi.name!r} cross each other on slice {index + 1}, so that it is not clear what is "
                "inside. Correct it in the program that it comes from, and export it again.",
                status=422,
            )
        plane[...] = together
    _check_gaps(roi.name, sorted(set(at.tolist())))
    if not mask.any():
        raise UserError(f"The contours of {roi.name!r} hold no voxel of the scan.", status=422)
    return mask


def _axis_across(contours: Sequence[np.ndarray]) -> int | None:
    """The voxel axis along which each contour has one place only; the last one where several would do."""
    for axis in (2, 1, 0):
        if max(float(np.ptp(contour[:, axis])) for contour in contours) <= 2 * _FLAT:
            return axis
    return None


def _check_slices(name: str, heights: np.ndarray, at: np.ndarray, count: int) -> None:
    off = np.abs(heights - at)
    if (at < 0).any() or (at >= count).any():
        beyond = int(((at < 0) | (at >= count)).sum())
        raise UserError(f"{beyond} contour(s) of {name!r} lie beyond the scan's {count} slices.", status=422)
    if off.max() > _OFF_SLICE:
        raise UserError(
            f"Contours of {name!r} lie between the scan's slices, by {off.max():.2f} of a slice: it was drawn on "
            "another series.",
            status=422,
        )


def _check_within(name: str, points: np.ndarray, shape: tuple[int, ...]) -> None:
    least, most = points.min(axis=0), points.max(axis=0)
    if (least < -1).any() or (most > np.array(shape)).any():
        raise UserError(f"Contours of {name!r} reach beyond the scan's images.", status=422)


def _check_gaps(name: str, slices: Sequence[int]) -> None:
    """Refuse a structure that was drawn on every second slice, say: between them nothing is known."""
    steps = set(np.diff(slices).tolist())
    if len(slices) > _LEAST_POINTS and min(steps) > 1:
        raise UserError(
            f"{name!r} is drawn on {len(slices)} slices that lie {listed(sorted(steps))} slices apart, with nothing on "
            "those between. Interpolate it in the program that it comes from, and export it again.",
            status=422,
        )
