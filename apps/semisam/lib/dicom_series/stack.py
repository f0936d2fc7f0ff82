"""The planes of a volume as an even, upright stack: checked, put in order, and placed in the patient.

Every plane says where its first pixel lies (Image Position (Patient), PS3.3 C.7.6.2). Only this counts: Instance
Number, Slice Thickness and the files' names are often something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.core.errors import UserError

from .choose import along_normal, refused
from .slices import Slice

_UNEVEN = 0.01
"""How far a step between slices may differ from the usual one, as a share of it."""
_ROUNDING = 0.011
"""The same in mm: positions are often written with two digits."""
_OFF_PLACE = 0.25
"""How far a slice may lie from its place in an even stack, in steps."""
_SIDEWAYS = 0.2
"""How far a slice may lie beside the first one, in pixels, in an upright stack."""
_GROWTH = 2.0
"""How many times the pixels of a slice the slices of an upright stack may have."""
_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """An even stack of planes, and the upright grid on which they are laid out.

    Args:
        slices: by their place along their common normal.
        shape: columns, rows and slices of the grid.
        affine: ``[4, 4]`` index on the grid to mm, RAS.
        shifts: ``[slices, 2]`` column and row of the grid at which each plane's first pixel lies; all zero where the
            planes lie one above the other.
        notes: sentences about how it was read.
    """

    slices: tuple[Slice, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    shifts: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def upright(self) -> bool:
        """Whether the grid's voxels are the planes' pixels."""
        return not self.shifts.any()

    @property
    def corners(self) -> np.ndarray:
        """``[slices, 2]`` whole column and row of the grid nearest to each plane's first pixel."""
        # The same rounding as where a SEG's frames are read; half voxels go up.
        result: np.ndarray = np.floor(self.shifts + 0.5 + 1e-3).astype(int)
        return result

    def on_planes(self, label: np.ndarray) -> np.ndarray:
        """A label ``[columns, rows, slices]`` on the grid, as it lies on the planes: ``[slices, rows, columns]``."""
        if self.upright:
            return label.transpose(2, 1, 0)
        columns, rows = self.slices[0].columns, self.slices[0].rows
        return np.stack([label[i : i + columns, j : j + rows, k].T for k, (i, j) in enumerate(self.corners)])


def stacked(slices: Sequence[Slice], name: str, notes: Sequence[str] = ()) -> Stack:
    """The stack of planes in order.

    Args:
        slices: at different places, in order along their normal.
        name: what to call it.
        notes: what was said about it before.

    Raises:
        UserError: (422) when there is one only, slices are missing, or the steps are uneven.
    """
    if len(slices) < 2:
        raise UserError(
            f"{name} is a single slice ({slices[0].modality}), such as a localizer: neither a three-dimensional scan "
            "nor a 2D image that stands for itself. Give the whole series; on a DICOM server, search for other series "
            "(MONAI_LABEL_DICOMWEB_SEARCH_FILTER).",
            status=422,
        )
    along = along_normal(slices)
    _check_even(slices, along, name)
    step = (along[-1] - along[0]) / (len(slices) - 1)
    spacing = np.array([slices[0].spacing[1], slices[0].spacing[0], step])  # type: ignore[index]
    axes = slices[0].axes
    places = np.array([each.position for each in slices])
    beside = (places - places[0]) @ axes[:2].T / spacing[:2]
    shifts, origin, size = np.zeros_like(beside), places[0], (slices[0].columns, slices[0].rows)
    notes = list(notes)
    if np.abs(beside).max() > _SIDEWAYS:
        shifts = beside - beside.min(axis=0)
        origin = places[0] + (beside.min(axis=0) * spacing[:2]) @ axes[:2]
        largest = np.ceil(shifts.max(axis=0) - 1e-3).astype(int)
        size = size[0] + int(largest[0]), size[1] + int(largest[1])
        notes.append(_tilt(slices, beside * spacing[:2], step, name, size))
    affine = np.eye(4)
    affine[:3, :3] = (axes.T * spacing) * _LPS[:, None] + 0.0  # no -0
    affine[:3, 3] = origin * _LPS
    return Stack(tuple(slices), (*size, len(slices)), affine, shifts, tuple(notes))


def _check_even(slices: Sequence[Slice], along: np.ndarray, name: str) -> None:
    steps = np.diff(along)
    usual = float(np.median(steps))
    allowed = max(_UNEVEN * usual, _ROUNDING)
    gaps = steps / usual
    whole = np.abs(gaps - gaps.round()) * usual <= np.maximum(2, gaps.round()) * allowed
    missing = whole & (gaps.round() > 1)
    if missing.any():
        first = int(np.flatnonzero(missing)[0])
        count = int((gaps.round()[missing] - 1).sum())
        are = "slice is" if count == 1 else "slices are"
        places = "" if missing.sum() == 1 else f" at {missing.sum()} places, the first"
        raise refused(
            name,
            f"{count} {are} missing{places} between {slices[first].text} and {slices[first + 1].text}, which lie "
            f"{steps[first]:.3g} mm apart where {usual:.3g} mm are usual",
            "Export or send the whole series again.",
        )
    uneven = np.abs(steps - usual) > allowed
    even = np.linspace(along[0], along[-1], len(along))
    off = np.abs(along - even) > _OFF_PLACE * usual
    if uneven.any() or off.any():
        first = int(np.flatnonzero(uneven)[0]) if uneven.any() else max(0, int(np.flatnonzero(off)[0]) - 1)
        raise refused(
            name,
            f"its slices are not evenly spaced: {slices[first].text} and {slices[first + 1].text} lie "
            f"{steps[first]:.4g} mm apart where {usual:.4g} mm are usual",
        )


def _tilt(slices: Sequence[Slice], beside: np.ndarray, step: float, name: str, size: tuple[int, int]) -> str:
    """What to say of planes that do not lie one above the other; refuses those that lie too far apart."""
    if size[0] * size[1] > _GROWTH * slices[0].rows * slices[0].columns:
        worst = int(np.abs(beside).sum(axis=1).argmax())
        raise refused(name, f"{slices[worst].text} lies far to the side of {slices[0].text}, which is no tilted gantry")
    height = np.arange(len(slices)) * step
    slope = (beside * height[:, None]).sum(axis=0) / (height**2).sum()
    if np.abs(beside - height[:, None] * slope).max() < 0.5 * step:
        angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
        reason = f"the gantry was tilted by {angle:.1f} degrees"
    else:
        reason = f"its slices lie up to {np.abs(beside).max():.1f} mm sideways of each other"
    return f"{name}: {reason}; the scan was resampled to an upright grid, outlines are stored on its own slices."
