"""Cross-entropy against soft labels with a weight for every voxel."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from .shapes import check_same_shape


def soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean over the voxels of ``-sum_c target_c log softmax(logits)_c``.

    Args:
        logits: ``[B, C, D, H, W]``.
        target: probabilities ``[B, C, D, H, W]``.
        weight: ``[B, 1, D, H, W]``, 0 or more; None counts all voxels alike. All zero gives 0.
    """
    check_same_shape(logits, target, weight)
    voxel = -(target * functional.log_softmax(logits, dim=1)).sum(dim=1, keepdim=True)
    if weight is None:
        return voxel.mean()
    return (weight * voxel).sum() / weight.sum().clamp_min(1e-6)
