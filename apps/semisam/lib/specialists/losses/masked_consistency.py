"""Agreement of two predictions of one scan, at some of its voxels only."""

from __future__ import annotations

import math

from torch import Tensor

from lib.core.uncertainty import normalised_entropy

from .shapes import check_same_shape


def masked_consistency(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """``sum_v m_v |s_v - t_v|^2 / (C sum_v m_v)``: the mean squared difference inside the mask; 0 when that is empty.

    Yu et al., "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium segmentation",
    https://arxiv.org/abs/1907.07034, equation 4, and a mean over the classes.

    Args:
        student: probabilities ``[B, C, D, H, W]``.
        teacher: probabilities of the same shape; no gradient reaches them.
        mask: ``[B, 1, D, H, W]``, 0 or 1.
    """
    check_same_shape(student, teacher, mask)
    difference = (student - teacher.detach()).square().mean(dim=1, keepdim=True)
    return (mask * difference).sum() / mask.sum().clamp_min(1.0)


def entropy_in_bits(probabilities: Tensor) -> Tensor:
    """Predictive entropy of ``[B, C, D, H, W]`` in bits, ``[B, 1, D, H, W]``: 1 where two classes are equally likely.

    Bits, not a share of the largest possible entropy: with many structures a border is still between two of them.
    """
    share = normalised_entropy(probabilities.transpose(0, 1))
    return share[:, None] * math.log2(probabilities.shape[1])
