"""The intensities the 3D models were trained with."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.generalists.hounsfield import is_ct


def clamp_ct(image: Tensor) -> Tensor:
    """Limit computed tomography to -1000..1000 HU, as in training; other scans stay as they are.

    For a CT that shows no air at all the only difference is metal and the densest bone.
    """
    return image.clamp(-1000, 1000) if is_ct(image) else image


def statistics(image: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the voxels above 0, as in training; of all voxels where too few are above 0."""
    voxels = image[image > 0].double()
    if voxels.numel() < 2:
        voxels = image.flatten().double()
    deviation = float(voxels.std()) if voxels.numel() > 1 else 0.0
    return float(voxels.mean()), deviation if deviation > 0 else 1.0


def normalise(image: Tensor, mean: float, deviation: float) -> Tensor:
    """Shift and scale all voxels, those at or below 0 too."""
    return torch.div(image - mean, deviation)
