"""Voxels turned as other programs want them."""

from __future__ import annotations

import nibabel.orientations as turning
import numpy as np


def upright(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels ``[D, H, W]`` with axes as near to right, anterior, superior as swaps and flips bring them.

    Args:
        array: of a scan or label; that of one slice stays as it is.
        affine: ``[4, 4]``, RAS.

    Returns:
        Array and affine: each voxel lies where it lay before.
    """
    if array.shape[2] == 1:
        return array, affine
    turn = turning.io_orientation(affine)
    result: np.ndarray = turning.apply_orientation(array, turn)
    return result, affine @ turning.inv_ornt_aff(turn, array.shape)
