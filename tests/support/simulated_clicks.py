"""Clicks as a careful person would set them, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt


def next_click(
    found: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> tuple[tuple[int, int, int], bool] | None:
    """The click that corrects the largest error: at its deepest point.

    Args:
        found: what is segmented so far, ``[D, H, W]`` boolean.
        truth: what should be.
        spacing: voxel size in mm.

    Returns:
        The voxel and whether the click is positive (something is missing there); None when nothing is wrong.
    """
    missing, too_much = (_deepest(error, spacing) for error in (truth & ~found, found & ~truth))
    if missing[1] == too_much[1] == 0:
        return None
    return (missing[0], True) if missing[1] >= too_much[1] else (too_much[0], False)


def _deepest(error: np.ndarray, spacing: Sequence[float]) -> tuple[tuple[int, int, int], float]:
    """The voxel farthest from the border, and how far in mm.

    What lies beyond the scan is no error; across a single slice nothing lies beyond.
    """
    around = [(1, 1) if length > 1 else (0, 0) for length in error.shape]
    inner = tuple(slice(first, first + length) for (first, _), length in zip(around, error.shape, strict=True))
    depth = distance_transform_edt(np.pad(error, around), sampling=spacing)[inner]
    i, j, k = np.unravel_index(int(depth.argmax()), depth.shape)
    return (int(i), int(j), int(k)), float(depth[i, j, k])
