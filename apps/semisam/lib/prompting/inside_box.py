"""A box without clicks: which structure in it is meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from lib.generalists.slices import THICK

from .region import Region

REACHES = 0.72
"""An answer that reaches along less than this share of every side of the box, within its slices, is not what the box
was drawn around."""
ON_EDGES = 0.66
"""Share of the surface on edges from which on what fills the box is believed instead."""


def reach(region: Region, inside: np.ndarray, box: np.ndarray) -> float:
    """How far an answer reaches from side to side of a box, 0..1: along that side where it reaches farthest.

    People draw boxes tightly: what they mean touches all sides (Lempitsky et al., ICCV 2009,
    https://doi.org/10.1109/ICCV.2009.5459262). Across thick slices, all that is in the box does, and it does not count.

    Args:
        region: where.
        inside: the answer ``[d, h, w]`` on the region's grid, boolean.
        box: first and past-the-last voxel ``[2, 3]`` of the scan.
    """
    if not inside.any():
        return 0.0
    places = np.argwhere(inside)
    size = np.array([(past - first) / n for (first, past), n in zip(region.bounds, region.shape, strict=True)])
    shares = (places.max(0) + 1 - places.min(0)) * size / (box[1] - box[0])
    across = across_slices(region.spacing)
    return float(min(1.0, max(share for axis, share in enumerate(shares.tolist()) if axis != across)))


def inscribed(shape: Sequence[int], spacing: Sequence[float], box: np.ndarray) -> np.ndarray:
    """What most structures in a box fill: its ellipsoid, or in thick slices its ellipse on each, ``[D, H, W]`` boolean.

    Args:
        shape: voxels of the scan.
        spacing: their size in mm.
        box: first and past-the-last voxel ``[2, 3]``.
    """
    across = across_slices(spacing)
    squares: np.ndarray = np.zeros([1, 1, 1])
    for axis, (first, past) in enumerate(box.T.tolist()):
        if axis != across:
            at = (np.arange(first, past) + 0.5 - (first + past) / 2) / ((past - first) / 2)
            squares = squares + np.square(at).reshape([-1 if a == axis else 1 for a in range(3)])
    whole = np.zeros(tuple(shape), dtype=bool)
    whole[tuple(slice(first, past) for first, past in box.T.tolist())] = squares <= 1
    return whole


def core(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The voxels ``[n, 3]`` of a mask ``[d, h, w]`` that lie deep inside it on their slice."""
    across = int(np.argmax(spacing))
    deep = np.zeros(mask.shape, dtype=bool)
    kept, slices = np.moveaxis(deep, across, 0), np.moveaxis(mask, across, 0)
    sides = [float(s) for axis, s in enumerate(spacing) if axis != across]
    for index, one in enumerate(slices):
        if one.any():
            depth = distance_transform_edt(one, sampling=sides)
            kept[index] = depth >= 0.5 * depth.max()
    return np.argwhere(deep)


def across_slices(spacing: Sequence[float]) -> int | None:
    """The axis across thick slices, None where slices are thin."""
    return int(np.argmax(spacing)) if max(spacing) >= THICK * min(spacing) else None
