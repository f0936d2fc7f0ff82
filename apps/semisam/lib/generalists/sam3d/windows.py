"""Cubes cut from a scan, and what is known about them put back together over the scan's extent.

Everything is measured in voxels of the working grid, the scan at the model's spacing; voxel centres are whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Start = tuple[int, int, int]
"""First voxel of a cube along each axis; negative where the cube begins before the scan."""


def clamp_start(wanted: int, length: int, window: int) -> int:
    """A cube's first voxel near ``wanted`` that shows as much of the scan as it can; a short scan is centred."""
    return -((window - length) // 2) if length <= window else min(max(wanted, 0), length - window)


def tile(shape: Sequence[int], window: int, overlap: int) -> list[Start]:
    """Evenly spread cubes that cover ``shape`` voxels and overlap by at least ``overlap``."""
    axes = []
    for length in shape:
        gaps = max(0, math.ceil((length - window) / (window - overlap)))
        axes.append([clamp_start(round(n * (length - window) / max(1, gaps)), length, window) for n in range(gaps + 1)])
    return [(d, h, w) for d in axes[0] for h in axes[1] for w in axes[2]]


def cut(image: Tensor, start: Start, window: int) -> Tensor:
    """The cube of ``[1, D, H, W]`` that begins at ``start``, ``[1, window, window, window]``; 0 beyond the scan."""
    lengths = image.shape[1:]
    inner = [slice(max(0, s), max(0, min(n, s + window))) for s, n in zip(start, lengths, strict=True)]
    pads = [p for s, n in zip(start, lengths, strict=True) for p in (max(0, -s), max(0, s + window - max(n, s)))]
    part = image[:, inner[0], inner[1], inner[2]]
    return functional.pad(part, [*pads[4:], *pads[2:4], *pads[:2]])


class Mosaic:
    """Grids of values over cubes, joined to one grid over the whole scan.

    Values are interpolated linearly. Where cubes overlap, the mean is weighted by a squared sine that falls to 0 at
    a cube's faces, so that no seam is seen.

    Args:
        channels: values of a place.
        shape: places of the result, which covers the working grid from edge to edge.
        working: voxels of the working grid.
        window: voxels of a cube along each axis.
    """

    def __init__(self, channels: int, shape: Sequence[int], working: Sequence[int], window: int) -> None:
        self.window = window
        self._centres = [(torch.arange(n) + 0.5) * (v / n) - 0.5 for n, v in zip(shape, working, strict=True)]
        self._total = torch.zeros(channels, *shape)
        self._weight = torch.zeros(*shape)

    def add(self, values: Tensor, start: Start, finish: Callable[[Tensor], Tensor] | None = None) -> None:
        """Lay ``[C, g, g, g]``, which covers the cube at ``start`` from edge to edge, over the scan.

        Args:
            values: on the CPU.
            start: of the cube.
            finish: applied to the interpolated values before they are averaged.
        """
        rows, weights = [], []
        for axis, centres in enumerate(self._centres):
            place = (centres - start[axis] + 0.5) / self.window
            here = torch.nonzero((place > 0) & (place < 1)).flatten()
            if not len(here):
                return
            rows.append(slice(int(here[0]), int(here[-1]) + 1))
            place = place[rows[-1]]
            weights.append((math.pi * place).sin().square())
            matrix = linear_weights(place * values.shape[axis + 1] - 0.5, values.shape[axis + 1])
            values = torch.tensordot(values, matrix, dims=([axis + 1], [1])).movedim(-1, axis + 1)
        if finish is not None:
            values = finish(values)
        weight = weights[0][:, None, None] * weights[1][:, None] * weights[2]
        self._total[:, rows[0], rows[1], rows[2]] += values * weight
        self._weight[rows[0], rows[1], rows[2]] += weight

    def result(self, elsewhere: Tensor | float = 0.0) -> Tensor:
        """All values ``[C, *shape]``; ``elsewhere`` (a number, or ``[*shape]``) where no cube is."""
        seen = self._weight > 0
        return torch.where(seen, self._total / self._weight.clamp_min(1e-30), elsewhere)


def linear_weights(places: Tensor, count: int) -> Tensor:
    """Matrix ``[M, count]`` that interpolates ``count`` values at the ``M`` places, the ends continued."""
    return (1 - (places.clamp(0, count - 1)[:, None] - torch.arange(count)).abs()).clamp_min(0)
