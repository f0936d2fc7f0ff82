"""Signed distance maps of soft labels.

Not by MONAI's ``distance_transform_edt``: that leaves the GPU unless cucim is installed, in every step of a training.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

_FAR = 1e4
"""Stands for no distance at all; its square is still exact enough in float32."""


@torch.no_grad()
def signed_distance_maps(targets: Tensor) -> Tensor:
    """The signed distance of every voxel from the surface of each structure, from -1 (deep inside) to 1 (far outside).

    Luo et al., "Semi-supervised medical image segmentation through dual-task consistency",
    https://arxiv.org/abs/2009.04448, equation 1: negative inside, positive outside. Distances are Euclidean, in voxels,
    to the surface halfway between two voxels' centres, and are divided by the largest one of the same structure and
    side. A structure that is not in the window is 1 everywhere, one that fills it -1.

    Args:
        targets: labels ``[B, 1 + N, D, H, W]``; the largest class of a voxel counts.

    Returns:
        ``[B, N, D, H, W]`` float32.
    """
    labels = targets.argmax(dim=1, keepdim=True)
    inside = labels == torch.arange(1, targets.shape[1], device=targets.device).view(1, -1, 1, 1, 1)
    outer = _distance(inside) - 0.5
    inner = _distance(~inside) - 0.5
    axes = (2, 3, 4)
    # A voxel has a distance of at least half a voxel on its own side and -0.5 on the other.
    outer = outer.clamp_min(0) / outer.amax(axes, keepdim=True).clamp_min(0.5)
    inner = inner.clamp_min(0) / inner.amax(axes, keepdim=True).clamp_min(0.5)
    return outer - inner


def signed_distance_mse(predicted: Tensor, distances: Tensor) -> Tensor:
    """Mean squared difference of predicted and true distance maps ``[B, N, D, H, W]`` (DTC, equation 3)."""
    return functional.mse_loss(predicted, distances)


def _distance(wanted: Tensor) -> Tensor:
    """Distance in voxels to the nearest True of ``[B, N, D, H, W]``, ``_FAR`` where there is none; exact.

    Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions", 2012: one axis after the other, squared.
    Shifting whole arrays is as fast as compiled code on a CPU for windows of a training, and stays on a GPU.
    """
    values = torch.where(wanted, 0.0, _FAR)
    for line in (values.unbind(2), values.unbind(2)[::-1]):
        for before, here in pairwise(line):
            torch.minimum(here, before + 1.0, out=here)
    values = values.square()
    for axis in (3, 4):
        values = _parabolas(values, axis)
    return values.sqrt()


def _parabolas(values: Tensor, axis: int) -> Tensor:
    """``min_k values[i + k] + k^2`` along an axis."""
    size = values.shape[axis]
    lowest = values.clone()
    # A shift further than the largest value so far cannot make anything smaller.
    reach = min(size - 1, int(float(values.amax()) ** 0.5))
    for k in range(1, reach + 1):
        for source, place in ((0, k), (k, 0)):
            part = lowest.narrow(axis, place, size - k)
            torch.minimum(part, values.narrow(axis, source, size - k) + float(k * k), out=part)
    return lowest
