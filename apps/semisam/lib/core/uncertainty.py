"""How unsure a prediction is, voxel by voxel."""

from __future__ import annotations

import math

from torch import Tensor

from .filters import box_mean

_AROUND = 2
"""Voxels around the structures that count as near."""


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """Predictive entropy divided by the logarithm of the number of classes.

    Args:
        probabilities: ``[C, ...]``, sum 1 over the first axis, at least two classes.

    Returns:
        ``[...]`` in 0..1: 0 where one class is certain, 1 where all are equally likely.
    """
    entropy = -(probabilities * probabilities.clamp_min(1e-12).log()).sum(dim=0)
    return (entropy / math.log(probabilities.shape[0])).clamp(0.0, 1.0)


def inside_and_around(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The voxels of the predicted structures, and those with the ones near them; both may be empty.

    Args:
        probabilities: ``[1 + N, D, H, W]``, background first.

    Returns:
        Two boolean ``[D, H, W]``.
    """
    # Many times faster than asking which class is the largest.
    inside = probabilities[1:].amax(0) > probabilities[0]
    return inside, box_mean(inside[None].float(), _AROUND)[0] > 0


def uncertainty_facts(probabilities: Tensor, uncertainty: Tensor) -> dict[str, float]:
    """A scan's mean confidence inside the structures, and mean uncertainty in and around them, both 0..1.

    Args:
        probabilities: ``[1 + N, D, H, W]``.
        uncertainty: ``[D, H, W]``.
    """
    inside, around = inside_and_around(probabilities)
    confidence = 1.0 - (uncertainty[inside] if bool(inside.any()) else uncertainty).mean()
    mean = (uncertainty[around] if bool(around.any()) else uncertainty).mean()
    return {"confidence": round(float(confidence), 4), "uncertainty": round(float(mean), 4)}
