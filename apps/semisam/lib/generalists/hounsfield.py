"""Computed tomography, told by its values."""

from __future__ import annotations

from torch import Tensor

SOFT_TISSUE = (-160.0, 240.0)
"""Level 40, width 400 HU: what abdominal CT is read with, and what MedSAM's CT was prepared with (Ma et al., 2024)."""
_AIR = -500.0
_BELOW_AIR = -1100.0
_SHARE = 1e-3
_MOST_BELOW_AIR = 1e-2


def is_ct(image: Tensor) -> bool:
    """Whether a scan of any shape is computed tomography in Hounsfield units.

    Nothing tells the modality of a scan. Hounsfield units have many values below -500 (air, lung, and the filling
    outside the field of view), so more than one voxel in a thousand there makes a scan a CT. But nothing is much
    thinner than air at -1000: where more than one voxel in a hundred lies below -1100, the filling's one value not
    counted, it is something else with a sign, such as a phase image.
    """
    if float((image < _AIR).float().mean()) <= _SHARE:
        return False
    below = (image < _BELOW_AIR) & (image > image.min())
    return float(below.float().mean()) <= _MOST_BELOW_AIR
