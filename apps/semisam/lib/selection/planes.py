"""Which three orthogonal planes of a scan are most worth outlining."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib.core.frames import Frame

from .region import around_structures

_NAMES = ("sagittal", "coronal", "axial")
"""Planes across the canonical axes: right, anterior, superior."""


def planes_to_outline(probabilities: Tensor, uncertainty: Tensor) -> tuple[int, int, int]:
    """One plane an axis that cuts the predicted structures widely and where the prediction is unsure.

    The worth of a plane is its share of the structures (each relative to its own widest plane, so that small ones
    count), up to doubled by the uncertainty in and around them. A plane that misses all structures is taken only when
    none is predicted: then uncertainty alone decides, and without any the middle.

    Args:
        probabilities: ``[1 + N, D, H, W]``, background first.
        uncertainty: ``[D, H, W]`` in 0..1.

    Returns:
        Index of the plane along D, H, W of the given grid; of equal ones the one nearest to the middle.
    """
    labels = probabilities.max(0).indices  # many times faster than argmax
    unsure_voxels = uncertainty.float() * around_structures(probabilities)
    masks = [labels == value for value in range(1, probabilities.shape[0])]
    masks = [mask for mask in masks if bool(mask.any())]
    found = [_best(masks, unsure_voxels, axis) for axis in range(3)]
    return found[0], found[1], found[2]


def _best(masks: list[Tensor], unsure_voxels: Tensor, axis: int) -> int:
    others = [n for n in range(3) if n != axis]
    unsure = _relative(_smooth(unsure_voxels.sum(others)))
    worth = unsure
    if masks:
        share = torch.stack([_relative(mask.float().sum(others)) for mask in masks]).mean(0)
        worth = share * (1.0 + unsure)
    middle = (len(worth) - 1) / 2
    return min(range(len(worth)), key=lambda n: (-round(float(worth[n]), 5), abs(n - middle), n))


def _relative(values: Tensor) -> Tensor:
    """Values divided by the largest; zeros stay."""
    return values / values.max().clamp_min(1e-12)


def _smooth(values: Tensor) -> Tensor:
    """Mean of each value ``[n]`` and its two neighbours."""
    padded = torch.cat([values[:1], values, values[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def planes_in_scan(
    frame: Frame, planes: tuple[int, int, int], affine: np.ndarray | None = None
) -> dict[str, dict[str, float | int]]:
    """The planes as people find them in a viewer.

    Args:
        frame: the working grid that ``planes`` belong to.
        planes: see ``planes_to_outline``.
        affine: ``[4, 4]`` of the scan, to say where the plane lies in mm.

    Returns:
        By name (``axial``, ``coronal``, ``sagittal``): ``axis`` and ``index``, the voxel plane of the scan's own array
        (from 0), and with an affine ``mm``: the coordinate of the plane's middle along superior, anterior or right,
        which is what 3D Slicer's slice slider shows. A 2D image has ``axial`` only.
    """
    found: dict[str, dict[str, float | int]] = {}
    for n in reversed(range(3)):
        if frame.flat and n < 2:
            continue
        axis, (first, last) = frame.axes[n], frame.box[n]
        canonical = first + int((planes[n] + 0.5) * (last - first) / frame.shape[n])
        size = frame.source_shape[axis]
        index = size - 1 - canonical if frame.flips[n] else canonical
        found[_NAMES[n]] = {"axis": axis, "index": index}
        if affine is not None:
            middle = [(s - 1) / 2 for s in frame.source_shape]
            middle[axis] = index
            found[_NAMES[n]]["mm"] = round(float(affine[n, :3] @ np.array(middle) + affine[n, 3]), 2)
    return found
