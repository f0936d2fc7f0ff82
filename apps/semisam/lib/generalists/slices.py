"""A volume as a stack of slices, and a slice on a network's square canvas.

Slices lie as radiologists look at them: axial with anterior up, coronal and sagittal with superior up, the patient's
right (in sagittal slices: anterior) on the left. For volumes in canonical axes (RAS) that is the same rule for all
three: the higher of the two remaining axes runs along the rows, the lower one along the columns, both reversed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.intensity import without_outliers
from lib.core.resampling import resize

from .hounsfield import SOFT_TISSUE, is_ct

Views = Literal["auto", "one", "three"]
"""Which views describe a volume; see ``choose_views``."""
THICK = 2.0
"""Slices are thick from this ratio of the largest to the smallest voxel size on: only their own view is looked at."""
WINDOW = (0.005, 0.995)
"""The share of the intensities that the window leaves out on either side."""
_SAMPLE = 2**20


@dataclass(frozen=True)
class View:
    """The slices across one axis of a canonical volume.

    Args:
        axis: the axis the slices are stacked along: 2 axial, 1 coronal, 0 sagittal.
    """

    axis: int

    @property
    def plane(self) -> tuple[int, int]:
        """The volume's axes along a slice's rows and columns."""
        return (1, 0) if self.axis == 2 else (2, 0) if self.axis == 1 else (2, 1)

    def sizes(self, values: Sequence[float]) -> tuple[float, float, float]:
        """Values a volume's axis (voxels, mm) in the order slice, row, column."""
        return values[self.axis], values[self.plane[0]], values[self.plane[1]]

    def stack(self, volume: Tensor) -> Tensor:
        """``[..., D, H, W]`` to ``[..., slices, rows, columns]``."""
        lead = volume.ndim - 3
        order = [*range(lead), *(lead + a for a in (self.axis, *self.plane))]
        return volume.permute(order).flip(-2, -1)

    def volume(self, stack: Tensor) -> Tensor:
        """``[..., slices, rows, columns]`` back to ``[..., D, H, W]``."""
        lead = stack.ndim - 3
        order = (self.axis, *self.plane)
        back = [*range(lead), *(lead + order.index(a) for a in range(3))]
        return stack.flip(-2, -1).permute(back).contiguous()

    def points(self, voxels: Tensor, shape: Sequence[int]) -> Tensor:
        """Places ``[P, 3]`` in voxels of a volume of ``shape`` to slice, row, column."""
        row, column = self.plane
        turned = (voxels[:, self.axis], shape[row] - 1 - voxels[:, row], shape[column] - 1 - voxels[:, column])
        return torch.stack(turned, dim=1)


def acquisition_view(spacing: Sequence[float]) -> View:
    """The view with the finest pixels: slices across the axis of the largest voxel size, axial if there is a choice."""
    # Sizes that differ by a rounding of the header are the same.
    return View(max((2, 1, 0), key=lambda axis: (round(spacing[axis] / max(spacing), 2), axis)))


def choose_views(spacing: Sequence[float], views: Views) -> tuple[View, ...]:
    """The views that describe a volume.

    ``one`` is the acquisition view, ``three`` are axial, coronal and sagittal. ``auto`` is three, except for scans with
    thick slices: across those, there is nothing in a reformatted slice that a 2D model could recognise.
    """
    if views == "one" or (views == "auto" and max(spacing) >= THICK * min(spacing)):
        return (acquisition_view(spacing),)
    return View(2), View(1), View(0)


def mean_of_views(views: Sequence[View], grid: Sequence[int], look: Callable[[View], Tensor]) -> Tensor:
    """Features of several views, averaged on a common grid.

    Args:
        views: which.
        grid: of the result ``[d, h, w]``; a single view keeps its own number of slices.
        look: gives the features ``[C, d', h', w']`` of a view.

    Returns:
        ``[C, d, h, w]``.
    """
    total: Tensor | None = None
    for view in views:
        features = look(view)
        target = list(grid)
        if len(views) == 1:
            target[view.axis] = features.shape[1 + view.axis]
        features = resize(features, target)
        total = features if total is None else total.add_(features)
    assert total is not None
    return total.div_(len(views))


@dataclass(frozen=True)
class Canvas:
    """A slice on a network's square image: true proportions, longest side to ``size`` pixels, in the upper left corner.

    The slice covers whole patches (its short side is rounded to a multiple of ``patch`` pixels), so that the features
    over it cover it from edge to edge, and no feature is half slice, half padding.

    Args:
        rows: of the slice.
        columns: of the slice.
        height: pixels the rows take.
        width: pixels the columns take.
        size: side of the network's image.
        patch: pixels a feature.
    """

    rows: int
    columns: int
    height: int
    width: int
    size: int
    patch: int

    @classmethod
    def of(cls, rows: int, columns: int, row_mm: float, column_mm: float, size: int, patch: int) -> Canvas:
        """The canvas of slices of ``rows`` x ``columns`` pixels of ``row_mm`` x ``column_mm``."""
        high, wide = rows * row_mm, columns * column_mm
        cell = max(high, wide) * patch / size
        return cls(rows, columns, max(1, round(high / cell)) * patch, max(1, round(wide / cell)) * patch, size, patch)

    @property
    def grid(self) -> tuple[int, int]:
        """Features over the slice: rows, columns."""
        return self.height // self.patch, self.width // self.patch

    @property
    def mask(self) -> tuple[int, int]:
        """Pixels of the network's masks over the slice: rows, columns."""
        return 4 * self.grid[0], 4 * self.grid[1]

    def scaled(self, slices: Tensor) -> Tensor:
        """Slices ``[N, rows, columns]`` at the canvas' resolution ``[N, height, width]``, without the padding."""
        return _resized(slices, (self.height, self.width))

    def padded(self, images: Tensor) -> Tensor:
        """Zeros beside and below ``[..., height, width]``: ``[..., size, size]``."""
        return functional.pad(images, (0, self.size - self.width, 0, self.size - self.height))

    def pixels(self, places: Tensor) -> Tensor:
        """Places ``[P, 2]`` as row, column of a slice to column, row of the canvas; centres are whole numbers."""
        scale = places.new_tensor([self.height / self.rows, self.width / self.columns])
        return ((places + 0.5) * scale - 0.5).flip(1)

    def box(self, first: Tensor, last: Tensor) -> Tensor:
        """First and last ``[2]`` row, column of a slice, both counted in, to the canvas: x, y, x, y ``[4]``."""
        return self.pixels(torch.stack([first - 0.5, last + 0.5])).flatten()

    def to_mask(self, slice_: Tensor) -> Tensor:
        """Values ``[rows, columns]`` at the resolution of the network's masks."""
        return _resized(slice_[None], self.mask)[0]

    def from_mask(self, values: Tensor) -> Tensor:
        """Values at the resolution of the network's masks, for the slice's pixels ``[rows, columns]``."""
        return _resized(values[None], (self.rows, self.columns))[0]


def window(volume: Tensor) -> Tensor:
    """A volume's intensities in 0..1, the ends of the range cut off.

    CT in Hounsfield units is seen in the window for soft tissue: percentiles would be those of air and bone, between
    which all organs look alike. For other scans the range is that of the 0.5th to 99.5th percentile of the voxels
    above the minimum: background that was set to one value would otherwise make up most of it. Outliers are clipped
    before (``lib.core.intensity``). A constant volume gives zeros.
    """
    volume = without_outliers(volume)
    if is_ct(volume):
        low, high = SOFT_TISSUE
        return ((volume - low) / (high - low)).clamp_(0, 1)
    values = volume.flatten()
    least = values.min()
    values = values[:: max(1, values.numel() // _SAMPLE)]
    values = values[values > least]
    if not values.numel():
        return torch.zeros_like(volume)
    first, last = torch.quantile(values, values.new_tensor(WINDOW))
    if not last > first:  # two values in all
        first = least
    result: Tensor = ((volume - first) / (last - first)).clamp_(0, 1)
    return result


def _resized(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """``[N, h, w]`` to ``[N, *shape]`` over the same extent, without aliasing."""
    return functional.interpolate(values[:, None], size=shape, mode="bilinear", align_corners=False, antialias=True)[
        :, 0
    ]
