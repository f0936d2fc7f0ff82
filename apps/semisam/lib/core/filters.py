"""Filters of images that more than one method uses."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def box_mean(values: Tensor, radius: int) -> Tensor:
    """Mean over a cube of ``2 * radius + 1`` voxels around each voxel of ``[C, D, H, W]``, edges replicated."""
    width = 2 * radius + 1
    padded = functional.pad(values[None], [radius] * 6, mode="replicate")[0]
    for axis in (1, 2, 3):
        kernel = [1, 1, 1]
        kernel[axis - 1] = width
        padded = functional.avg_pool3d(padded[None], kernel, stride=1)[0]
    return padded
