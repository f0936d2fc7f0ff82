"""How large the structure under a click is: the region of search grows until edges stop the answer."""

from __future__ import annotations

import numpy as np

from .region import Region

MARGINS_MM = (50.0, 75.0, 110.0, 160.0, 240.0)
"""How far from the clicks a structure may reach, one try after the other: bounded work for any scan."""
LARGE_MM = 150.0
"""A structure that reaches so far is large."""
GAIN = 0.02
"""A larger region is believed when so much more of the answer's surface lies on edges."""
ENOUGH = 0.97
"""Share of the surface on edges from which on no larger region is tried."""
STEP = 0.12
"""Change of intensity, in the region's window, that is an edge in full."""


def edge_support(region: Region, inside: np.ndarray) -> float:
    """Which share of an answer's surface lies on edges of the image, 0..1.

    A structure ends where the intensity changes. Where an answer ends although nothing changes, it was the region, or
    the clicks' reach, that has ended it: so do the faces of the region count.

    Args:
        region: with the image.
        inside: the answer ``[d, h, w]``, boolean.
    """
    area = supported = 0.0
    for axis in range(3):
        size = region.shape[axis]
        face = float(np.prod(region.spacing)) / region.spacing[axis]
        image, found = np.moveaxis(region.image, axis, 0), np.moveaxis(inside, axis, 0)
        area += face * (np.count_nonzero(found[0]) + np.count_nonzero(found[-1])) if size > 1 else 0.0
        before = np.arange(size - 1)
        parted = found[1:] != found[:-1]
        # Two voxels on either side: an edge is blurred over more than one.
        below = (image[before] + image[np.maximum(before - 1, 0)]) / 2
        above = (image[before + 1] + image[np.minimum(before + 2, size - 1)]) / 2
        area += face * np.count_nonzero(parted)
        supported += face * float(np.minimum(1, np.abs(above - below)[parted] / STEP).sum())
    return supported / area if area else 0.0
