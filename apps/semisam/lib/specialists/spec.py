"""What has to be known about a specialist besides its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeGuard

from lib.core.errors import UserError
from lib.formats.limits import MOST_CHANNELS

BY_SLICE = ("unet2d", "sam", "sam_vit_b", "medsam", "mobile_sam", "lite_medsam")
"""Networks that see every slice on its own; the window may be of any size along their ``slice_axis``."""

_ROI_STEP = 8
_LEAST_ROI = 24
_NATIVE_COSTS = 1.5
"""Times the budget of voxels that a scan's own grid may have: any other, a little coarser, mixes neighbours."""

_AROUND_MM = 30.0
_AROUND_SHARE = 0.25
"""What is seen around the structures on each side, at least, and as a share of their size."""
_MOST_OF_SCAN = 0.5
"""Share of a scan from which on a part is not worth to be told from the whole."""

_MOST_CLASSES = 256
"""Labels are kept as one byte a voxel."""
_MOST_LETTERS = 1000
_MOST_LEVELS = 10
_MOST_WIDTH = 4096
_MOST_WEIGHT = 100.0
_MOST_ROI = 2**27
"""Voxels of a window at most: 512 along each axis."""


@dataclass(frozen=True)
class SpecialistSpec:
    """A specialist's network and the grid and intensities it works on.

    Args:
        label_names: the structures; channel n of the output is the structure n, channel 0 background.
        widths: channels of the network's levels, from full resolution down.
        spacing: voxel size of the working grid in mm (right, anterior, superior).
        roi_size: voxels of the sliding window along the same axes.
        network: kind of network, see ``networks.build_network``.
        dropout: share of features dropped while training.
        inputs: channels of an image: 1, 3 for pictures in colour, or those of scans with several.
        slice_axis: axis that networks for slices leave alone: 0, 1 or 2 of the working grid.
        flat: whether it works on 2D images, which have one slice across the third axis.
        part: size in mm of the part of a scan around the structures that it works on, None for whole scans.
        volume_weights: how many times the probability of each class counts where the most probable one is chosen,
            background first; None for once. See ``detail.volume_weights``.
    """

    label_names: tuple[str, ...]
    widths: tuple[int, ...]
    spacing: tuple[float, float, float]
    roi_size: tuple[int, int, int]
    network: str = "unet3d"
    dropout: float = 0.1
    inputs: int = 1
    slice_axis: int = 2
    flat: bool = False
    part: tuple[float, float, float] | None = None
    volume_weights: tuple[float, ...] | None = None

    @property
    def channels(self) -> int:
        """Number of output channels: structures and background."""
        return len(self.label_names) + 1

    @property
    def by_slice(self) -> bool:
        """Whether the network sees every slice across ``slice_axis`` on its own."""
        return self.network in BY_SLICE

    def as_plain(self) -> dict[str, object]:
        """The fields as lists, numbers and strings."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_plain(cls, content: Mapping[str, object]) -> SpecialistSpec:
        """The reverse of ``as_plain``.

        Raises:
            KeyError, TypeError, ValueError: when fields are missing or of a wrong kind.
        """
        needed = ("label_names", "widths", "spacing", "roi_size")
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content or name in needed}
        spec = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})  # type: ignore[arg-type]
        spec.check()
        return spec

    def check(self) -> None:
        """Raise ValueError or TypeError unless the fields are such as a training chooses them."""
        if len(self.spacing) != 3 or len(self.roi_size) != 3 or not self.widths or not self.label_names:
            raise ValueError("spacing, roi_size, widths or label_names has a wrong length")
        named = all(isinstance(name, str) and len(name) <= _MOST_LETTERS for name in self.label_names)
        if not named or self.channels > _MOST_CLASSES:
            raise ValueError("label_names are no names, or too many")
        if len(self.widths) > _MOST_LEVELS or not all(_whole(n, _MOST_WIDTH) for n in self.widths):
            raise ValueError("widths are no channels")
        if not all(_whole(n, _MOST_ROI) for n in self.roi_size) or math.prod(self.roi_size) > _MOST_ROI:
            raise ValueError("roi_size is no window")
        sizes = (*self.spacing, *(self.part or (1.0, 1.0, 1.0)))
        if len(sizes) != 6 or not all(_number(n) and 0 < n < math.inf for n in sizes):
            raise ValueError("spacing or part are no sizes")
        weights = self.volume_weights or (1.0,) * self.channels
        if len(weights) != self.channels or not all(_number(n) and 0 < n <= _MOST_WEIGHT for n in weights):
            raise ValueError("volume_weights are no weights of the classes")
        if not _whole(self.inputs, MOST_CHANNELS) or self.slice_axis not in (0, 1, 2) or not 0 <= self.dropout < 1:
            raise ValueError("inputs, slice_axis or dropout have no meaning")


def region_of_interest(
    extents: Sequence[Sequence[float]], structures: Sequence[Sequence[float]]
) -> tuple[float, float, float] | None:
    """Size in mm of the part of a middling scan that a specialist has to see: the structures and what is near them.

    Args:
        extents: size in mm of each scan's content along the canonical axes.
        structures: size in mm of the box around all structures, of each outlined scan that has some.

    Returns:
        None unless scans are far larger than that part.
    """
    if not structures:
        return None
    whole, boxes = ([_median([size[n] for size in sizes]) for n in range(3)] for sizes in (extents, structures))
    part = [min(e, b + 2 * max(_AROUND_MM, _AROUND_SHARE * b)) for e, b in zip(whole, boxes, strict=True)]
    if math.prod(part) > _MOST_OF_SCAN * math.prod(whole):
        return None
    return part[0], part[1], part[2]


def choose_spacing(
    extents: Sequence[Sequence[float]], spacings: Sequence[Sequence[float]], most_voxels: int
) -> tuple[float, float, float]:
    """A spacing at which a middling scan has at most ``most_voxels``, and no axis is finer than the scans themselves.

    The scans' own spacing may cost half as much again: all others blur.

    Args:
        extents: size in mm of each scan's content, or of what is used of it, along the canonical axes.
        spacings: voxel size in mm of each scan along the same axes.
        most_voxels: budget of one scan.
    """
    extent = [_median([e[n] for e in extents]) for n in range(3)]
    native = [_median([s[n] for s in spacings]) for n in range(3)]

    def voxels(edge: float) -> float:
        return math.prod(e / max(s, edge) for e, s in zip(extent, native, strict=True))

    low, high = min(native), max(*extent, min(native))
    if voxels(low) > _NATIVE_COSTS * most_voxels:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if voxels(middle) > most_voxels else (low, middle)
        edge = high
    else:
        edge = low
    x, y, z = (round(max(s, edge), 4) for s in native)
    return x, y, z


def choose_roi(
    extents: Sequence[Sequence[float]], spacing: Sequence[float], most_voxels: int, *, flat: bool = False
) -> tuple[int, int, int]:
    """A window that covers a middling scan, or as much of it as ``most_voxels`` allow; multiples of 8, at least 24.

    Args:
        extents: size in mm of each scan's content along the canonical axes.
        spacing: voxel size in mm of the working grid.
        most_voxels: budget of the window.
        flat: for 2D images: one voxel along the third axis.
    """
    size = [_median([e[n] for e in extents]) / s for n, s in enumerate(spacing)]
    roi = [max(_LEAST_ROI, _ROI_STEP * math.ceil(s / _ROI_STEP - 0.25)) for s in size]
    if flat:
        roi[2] = 1
    while math.prod(roi) > most_voxels and max(roi) > _LEAST_ROI:
        roi[roi.index(max(roi))] -= _ROI_STEP
    return roi[0], roi[1], roi[2]


def fitting_widths(
    widths: Sequence[int], roi: Sequence[int], network: str = "unet3d", least: int = 2
) -> tuple[int, ...]:
    """The widths without the deepest levels for which a window has too few voxels, ``least`` of them at least.

    Whether the window has enough for these says ``check_roi``.
    """
    levels = next((n for n in range(len(widths), least, -1) if _fits(roi, n, network)), least)
    return tuple(widths[:levels])


def check_roi(roi: Sequence[int], levels: int, network: str = "unet3d", slice_axis: int = 2) -> None:
    """Raise UserError when a window is too small for a network.

    The deepest level needs two voxels, or its normalisation has nothing to compare.

    Args:
        roi: voxels of the window.
        levels: of the network.
        network: kind of network; those that see slices take any edge from 1 on across the slices.
        slice_axis: see ``SpecialistSpec``.
    """
    if not _fits(roi, levels, network, slice_axis):
        step = 2 ** (levels - 1)
        shown = " x ".join(str(n) for n in roi)
        raise UserError(
            f"roi_size {shown} is too small for this network: no edge below 4 voxels, and one above {step} at least."
        )


def _fits(roi: Sequence[int], levels: int, network: str, slice_axis: int = 2) -> bool:
    """Whether the deepest level of a network has two voxels of a window at least."""
    step = 2 ** (levels - 1)
    seen = [n for axis, n in enumerate(roi) if network not in BY_SLICE or axis != slice_axis]
    return min(roi) >= 1 and min(seen) >= 4 and math.prod(math.ceil(n / step) for n in seen) >= 2


def _whole(number: object, most: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number <= most


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
