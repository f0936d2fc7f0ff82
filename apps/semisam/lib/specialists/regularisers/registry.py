"""Regularisers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .ac_mt import AmbiguityMeanTeacher
from .base import Regulariser
from .dan import DeepAdversarial
from .dtc import DualTask
from .mean_teacher import MeanTeacher
from .supervised import Supervised
from .ua_mt import UncertaintyAwareMeanTeacher

_TEACHER_MEMORY = 0.07
"""A teacher averages over at most this share of the steps: in a short training a long memory would lag behind."""

REGULARISERS: Mapping[str, Callable[[float], Regulariser]] = {
    "mean_teacher": lambda most: MeanTeacher(most=most),
    "ua_mt": lambda most: UncertaintyAwareMeanTeacher(most=most),
    "dan": lambda most: DeepAdversarial(),
    "dtc": lambda most: DualTask(),
    "ac_mt": lambda most: AmbiguityMeanTeacher(most=most),
    "supervised": lambda most: Supervised(),
}
"""Builders; they take how much of a teacher stays in a step, at most (0..1)."""


def build_regulariser(name: str, steps: int) -> Regulariser:
    """A fresh regulariser for one training.

    Args:
        name: one of ``REGULARISERS``.
        steps: of the training.
    """
    return REGULARISERS[name](teacher_memory(steps))


def teacher_memory(steps: int) -> float:
    """How much of a teacher stays in a step (0.5..0.99), at most, in a training of so many steps."""
    return max(0.5, min(0.99, 1.0 - 1.0 / (_TEACHER_MEMORY * steps)))
