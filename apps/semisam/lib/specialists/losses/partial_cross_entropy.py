"""Cross-entropy on the annotated voxels alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .cross_entropy import soft_cross_entropy
from .shapes import check_same_shape


def partial_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over the windows of the weighted mean of ``-sum_c target_c log softmax(logits)_c`` over their voxels.

    FM-ABS (MICCAI 2024), section 2.1: "partial cross-entropy on the labelled voxels". Taking the mean window by window
    lets one with three annotated planes count as much as one that is annotated everywhere.

    Args:
        logits: ``[B, C, D, H, W]``.
        target: probabilities ``[B, C, D, H, W]``.
        weight: ``[B, 1, D, H, W]``, 0 where nothing is annotated. Windows without any annotated voxel are left out;
            without any window the result is 0.
    """
    check_same_shape(logits, target, weight)
    drawn = [n for n in range(len(weight)) if bool((weight[n] > 0).any())]
    if not drawn:
        return logits.sum() * 0.0
    return torch.stack([soft_cross_entropy(logits[n, None], target[n, None], weight[n, None]) for n in drawn]).mean()
