"""A scan as a generalist sees it during a training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ScanView:
    """A scan on the specialist's grid.

    Args:
        image: intensities as they are stored, ``[1, D, H, W]`` float32.
        spacing: voxel size in mm.
    """

    image: Tensor
    spacing: tuple[float, float, float]
