"""Agreement of a segmentation with predicted signed distances."""

from __future__ import annotations

import torch
from torch import Tensor

from .shapes import check_same_shape


def occupancy(distances: Tensor, sharpness: float) -> Tensor:
    """A smooth step, ``1 / (1 + exp(k z))``: 1 inside (z < 0), 0 outside, 1/2 at the surface (DTC, equation 2)."""
    return torch.sigmoid(-sharpness * distances)


def dual_task_consistency(probabilities: Tensor, distances: Tensor, sharpness: float) -> Tensor:
    """``mean |p_n - occupancy(z_n)|^2`` over voxels and structures; both sides learn.

    Luo et al., "Semi-supervised medical image segmentation through dual-task consistency",
    https://arxiv.org/abs/2009.04448, equation 4.

    Args:
        probabilities: ``[B, 1 + N, D, H, W]``, background first, which has no distance map.
        distances: signed distance of each structure, ``[B, N, D, H, W]`` in -1..1, negative inside.
        sharpness: k; the step is about ``4 / k`` wide.
    """
    check_same_shape(probabilities[:, 1:], distances)
    return (probabilities[:, 1:] - occupancy(distances, sharpness)).square().mean()
