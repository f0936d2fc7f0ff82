"""A Dice-like loss on which wrong labels have less influence.

Wang et al., "A noise-robust framework for automatic segmentation of COVID-19 pneumonia lesions from CT images", IEEE
TMI 2020, equation 3; with the squared denominator of FM-ABS (MICCAI 2024).
"""

from __future__ import annotations

from torch import Tensor

from .shapes import check_same_shape

_SMOOTH = 1e-5


def noise_tolerant_dice(
    probabilities: Tensor, target: Tensor, weight: Tensor | None = None, gamma: float = 1.5
) -> Tensor:
    """``sum w |p - g|^gamma / (sum w p^2 + sum w g^2 + s)``, mean over batch and classes, background included.

    ``gamma = 2`` is Dice with squared denominators, ``gamma = 1`` behaves like the mean absolute error.

    Args:
        probabilities: ``[B, C, D, H, W]``.
        target: ``[B, C, D, H, W]``, 0..1.
        weight: ``[B, 1, D, H, W]``, or ``[B, C, D, H, W]`` for each class, or None.
        gamma: 1..2.
    """
    check_same_shape(probabilities, target, weight, by_class=True)
    w = 1.0 if weight is None else weight
    axes = (2, 3, 4)
    difference = (probabilities - target).abs().pow(gamma)
    total = (w * probabilities.square()).sum(axes) + (w * target.square()).sum(axes)
    return ((w * difference).sum(axes) / (total + _SMOOTH)).mean()
