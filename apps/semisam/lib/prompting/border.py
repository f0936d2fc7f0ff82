"""The border of an answer: smooth, and where the scan's own voxels have it rather than those of a coarser grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from .inside_box import across_slices

SMOOTH = 1.0
"""Width of the smoothing of a border's place, in voxels of the grid of the answer. Chosen, as what follows, on scans
of ``la`` and ``hippocampus`` that no benchmark of clicks measures."""
BLURRED = 0.7
"""Width of the smoothing of an answer in thick slices, in voxels of its grid."""
_REACH = 4.0
"""Distances from the border beyond this many voxels say nothing about its shape."""


def soft(inside: np.ndarray) -> np.ndarray:
    """An answer ``[d, h, w]`` in 0..1, just as it was cut."""
    blurred: np.ndarray = gaussian_filter(inside.astype(np.float32), BLURRED)
    return blurred


def smooth_border(inside: np.ndarray, grid: Sequence[float], own: Sequence[float]) -> np.ndarray:
    """An answer with a smooth border, in 0..1 and 0.5 at the border: ``[d, h, w]``.

    The signed distance from the border is smoothed. A voxel of a grid coarser than the scan's that lies half outside
    of the structure counts as inside as a rule, so the border is drawn in by what the voxels are larger, one voxel of
    the scan at most. What is too thin for this stays as it is. In thick slices there is no distance across them to
    speak of, and the answer is blurred only.

    Args:
        inside: the answer ``[d, h, w]``, boolean.
        grid: its voxel size in mm.
        own: the scan's voxel size in mm.
    """
    if across_slices(own) is not None or not inside.any() or inside.all():
        return soft(inside)
    voxel, finest = min(grid), min(own)
    distance = distance_transform_edt(inside, sampling=grid) - distance_transform_edt(~inside, sampling=grid)
    distance = np.clip(distance - np.sign(distance) * voxel / 2, -_REACH * voxel, _REACH * voxel)
    level = min(max(voxel - finest, 0.0), finest)
    smooth = gaussian_filter(distance, [SMOOTH * voxel / size for size in grid]) - level
    if not (smooth > 0).any():
        return soft(inside)
    far = 2 * voxel + level
    gone = inside & (distance_transform_edt(smooth <= 0, sampling=grid) > far)
    if gone.any():  # with what joins it to the rest
        gone = inside & (distance_transform_edt(~gone, sampling=grid) <= far)
        smooth[gone] = np.maximum(smooth, distance)[gone]
    result: np.ndarray = np.clip(0.5 + smooth / (2 * voxel), 0, 1).astype(np.float32)
    return result
