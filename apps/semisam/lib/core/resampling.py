"""Grids of another number of voxels over the same extent: areas averaged, growing axes interpolated linearly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional


def resize(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample ``[C, D, H, W]`` to ``[C, *shape]`` over the same extent.

    Shrinking axes are averaged over the area they cover (no aliasing), growing axes interpolated linearly.
    """
    target = [int(n) for n in shape]
    shrunk = [min(a, b) for a, b in zip(values.shape[1:], target, strict=True)]
    if shrunk != list(values.shape[1:]):
        sizes = [*zip(values.shape[1:], shrunk, strict=True)]
        if all(n % count == 0 for n, count in sizes):  # the same, and faster
            values = functional.adaptive_avg_pool3d(values[None], (shrunk[0], shrunk[1], shrunk[2]))[0]
        else:
            values = along_axes(values, [averaging(n, count) for n, count in sizes])
    if target != shrunk:
        values = functional.interpolate(values[None], size=target, mode="trilinear", align_corners=False)[0]
    return values


def along_axes(values: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """``values [C, D, H, W]`` multiplied along each axis by a matrix ``[m, n]``; None leaves the axis as it is.

    The matrices may lie on another device: small, they are made on the CPU and kept there.
    """
    depth, height, width = (None if each is None else each.to(values.device) for each in matrices)
    if width is not None:
        values = values @ width.T
    if height is not None:
        values = height @ values
    if depth is not None:
        values = (depth @ values.flatten(2)).view(len(values), -1, *values.shape[2:])
    return values


def interpolation(box: tuple[int, int], size: int, other: tuple[int, int], count: int) -> Tensor:
    """Linear interpolation from ``size`` voxels of an axis over ``box`` to ``count`` over ``other``: ``[count, size]``.

    A row is 0 where the place lies outside ``box``.
    """
    centres = other[0] + (torch.arange(count, dtype=torch.float64) + 0.5) * (other[1] - other[0]) / count
    places = (centres - box[0]) * size / (box[1] - box[0]) - 0.5
    weights = 1.0 - (places.clamp(0, size - 1)[:, None] - torch.arange(size)).abs()
    inside = (centres >= box[0]) & (centres <= box[1])
    return (weights.clamp_min(0) * inside[:, None]).float()


def averaging(size: int, count: int) -> Tensor | None:
    """``area_means``, None where nothing is to be averaged."""
    return None if size == count else area_means(size, count)


@lru_cache(256)
def area_means(size: int, count: int) -> Tensor:
    """Means over ``count`` equal parts of an axis of ``size`` voxels, as a matrix ``[count, size]``.

    A voxel that two parts share counts in each as far as it lies in it: means over whole voxels would blur, by half
    where an axis shrinks but a little.
    """
    edges = torch.linspace(0, size, count + 1, dtype=torch.float64)
    voxel = torch.arange(size, dtype=torch.float64)
    inside = torch.minimum(edges[1:, None], voxel + 1) - torch.maximum(edges[:-1, None], voxel)
    inside = inside.clamp_min(0)
    inside[inside < 1e-9] = 0  # rounding
    return (inside / inside.sum(dim=1, keepdim=True)).float()
