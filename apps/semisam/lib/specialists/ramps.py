"""Weights that change while training goes on."""

from __future__ import annotations

import math


def sigmoid_ramp(step: float, length: float) -> float:
    """Rise from exp(-5) to 1 over ``length`` steps: ``exp(-5 (1 - t / T)^2)``.

    Laine and Aila, "Temporal ensembling for semi-supervised learning", https://arxiv.org/abs/1610.02242, section 3.
    """
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(max(step / length, 0.0), 1.0)) ** 2)


def linear_ramp(step: float, length: float) -> float:
    """Rise from 0 to 1 over ``length`` steps."""
    return 1.0 if length <= 0 else min(max(step / length, 0.0), 1.0)


def poly_decay(step: float, length: float, power: float = 0.9) -> float:
    """Fall from 1 to 0 over ``length`` steps: ``(1 - t / T) ** power``."""
    result: float = (1.0 - min(max(step / max(length, 1e-12), 0.0), 1.0)) ** power
    return result
