"""What every semi-supervised regulariser offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lib.specialists.networks import SpecialistNetwork


@dataclass(frozen=True, eq=False)
class Observation:
    """One step of a training: what the student saw, what it should say, and what it said.

    Args:
        images: ``[B, inputs, D, H, W]``.
        targets: soft labels ``[B, C, D, H, W]``, sum 1.
        weights: how much each voxel of the target counts, ``[B, 1, D, H, W]`` in 0..1.
        labelled: ``[B]`` boolean: whether the label is a human's. On the CPU.
        extra: further maps cut alike, ``[B, K, D, H, W]``; K may be 0.
        features: of the student, ``[B, width, D, H, W]``, with gradient; ``width`` is 0 for a regulariser that has no
            parameters of its own.
        logits: of the student, ``[B, C, D, H, W]`` float32, with gradient.
        step: steps done, from 0.
        steps: of the whole training.
        share: how much of the step's windows these are, where windows with and without a human label are learned from
            one after the other. A term over all windows counts by it, so that the pieces add up to the term of the
            whole step.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    labelled: Tensor
    extra: Tensor
    features: Tensor
    logits: Tensor
    step: int
    steps: int
    share: float = 1.0


def rows(chosen: Tensor) -> slice | Tensor:
    """An index for the items of a batch that are ``chosen [B]`` (on the CPU): a slice where they lie together."""
    places = chosen.nonzero()[:, 0].tolist()
    if places and places[-1] - places[0] + 1 == len(places):
        return slice(places[0], places[-1] + 1)
    return chosen


class Regulariser(Protocol):
    """Adds a loss on scans without a human label, and may keep networks of its own.

    One object serves one training: ``start`` once, then for each step ``loss`` and, after the optimiser's step,
    ``after_step``.
    """

    name: str

    def start(self, student: SpecialistNetwork, classes: int, steps: int, generator: torch.Generator) -> None:
        """Get ready.

        Args:
            student: the network in training, on its device.
            classes: C, structures and background.
            steps: steps of the whole training.
            generator: source of all random numbers (CPU).
        """
        ...

    def parameters(self) -> Sequence[nn.Parameter]:
        """What the student's optimiser shall train besides the student; called once, after ``start``."""
        ...

    def loss(self, seen: Observation) -> Tensor:
        """The term to add to the loss, already weighted; a scalar."""
        ...

    def after_step(self, student: SpecialistNetwork, step: int) -> None:
        """Called after the optimiser's step number ``step`` (from 0)."""
        ...

    def members(self, student: SpecialistNetwork) -> Sequence[SpecialistNetwork]:
        """The networks to predict with, the best one first; may be asked for at any time after ``start``."""
        ...
