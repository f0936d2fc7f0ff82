"""Dice loss against soft labels."""

from __future__ import annotations

from torch import Tensor

from .shapes import check_same_shape

_SMOOTH = 1e-5


def soft_dice(probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """``1 - (2 sum w p g + s) / (sum w p^2 + sum w g^2 + s)``, mean over batch and classes, background included.

    Squared denominators, as in SemiSAM+ (https://arxiv.org/abs/2502.20749). A class in neither gives 0.

    Args:
        probabilities: ``[B, C, D, H, W]``.
        target: ``[B, C, D, H, W]``, 0..1.
        weight: ``[B, 1, D, H, W]`` or None.
    """
    check_same_shape(probabilities, target, weight)
    w = 1.0 if weight is None else weight
    axes = (2, 3, 4)
    both = (w * probabilities * target).sum(axes)
    total = (w * probabilities.square()).sum(axes) + (w * target.square()).sum(axes)
    return (1.0 - (2.0 * both + _SMOOTH) / (total + _SMOOTH)).mean()
