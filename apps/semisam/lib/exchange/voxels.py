"""Voxels of scans as files hold them best."""

from __future__ import annotations

import nibabel.orientations as turning
import numpy as np

_SHORT = 2**15


def exact(array: np.ndarray) -> np.ndarray:
    """The values of a float32 array as int16 where they all fit, as they are otherwise."""
    fits = bool(array.min() >= -_SHORT and array.max() < _SHORT and np.array_equal(array, np.rint(array)))
    return array.astype(np.int16) if fits else array.astype(np.float32, copy=False)


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
