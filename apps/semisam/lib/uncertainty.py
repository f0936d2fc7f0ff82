"""How unsure a prediction is, voxel by voxel."""

from __future__ import annotations

import math

from torch import Tensor


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """Predictive entropy divided by the logarithm of the number of classes.

    Args:
        probabilities: ``[C, ...]``, sum 1 over the first axis, at least two classes.

    Returns:
        ``[...]`` in 0..1: 0 where one class is certain, 1 where all are equally likely.
    """
    entropy = -(probabilities * probabilities.clamp_min(1e-12).log()).sum(dim=0)
    return (entropy / math.log(probabilities.shape[0])).clamp(0.0, 1.0)
