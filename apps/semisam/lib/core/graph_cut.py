"""Graph cut: the segmentation that fits the voxels' log odds with the cheapest boundary."""

from __future__ import annotations

import numpy as np
import numpymaxflow  # type: ignore[import-untyped]

CERTAIN = 50.0
"""Log odds of what is known."""


def minimal_cut(
    image: np.ndarray, odds: np.ndarray, *, smooth: float, like: float, corners: bool = False
) -> np.ndarray:
    """Part an image in two (Boykov and Jolly, ICCV 2001, https://doi.org/10.1109/ICCV.2001.937505).

    Args:
        image: intensities, of two or three axes, float32.
        odds: log odds of the structure, of the same shape; cut off at ``CERTAIN``.
        smooth: weight of the cut between like neighbours, which share an edge or a face.
        like: intensity difference up to which neighbours are alike.
        corners: voxels that share an edge or a corner are neighbours, too (three axes): borders prefer no axis.

    Returns:
        The structure, boolean.
    """
    chance = 1 / (1 + np.exp(-np.clip(odds, -CERTAIN, CERTAIN)))
    both = np.clip(np.stack([1 - chance, chance]), 1e-9, 1).astype(np.float32)
    cut = numpymaxflow.maxflow(
        image[None], both, lamda=smooth, sigma=like, connectivity=26 if corners else 2 * image.ndim
    )
    found: np.ndarray = cut[0] > 0
    return found
