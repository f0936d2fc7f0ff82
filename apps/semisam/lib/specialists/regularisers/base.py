"""What every semi-supervised regulariser offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Regulariser(Protocol):
    """Adds a loss on scans without a human label, and may keep networks of its own.

    One object serves one training: ``start`` once, then for each step ``loss`` and, after the optimiser's step,
    ``after_step``.
    """

    name: str

    def start(self, student: nn.Module, steps: int, generator: torch.Generator) -> None:
        """Get ready for ``steps`` steps with ``student``.

        Args:
            student: the network in training, on its device.
            steps: steps of the whole training.
            generator: source of all random numbers (CPU).
        """
        ...

    def loss(self, images: Tensor, logits: Tensor, human: Tensor, step: int) -> Tensor:
        """The term to add to the loss, already weighted; a scalar.

        Args:
            images: what the student saw, ``[B, 1, D, H, W]``.
            logits: what it answered, ``[B, C, D, H, W]``, with gradient.
            human: ``[B]`` boolean: which items have a human label.
            step: steps done, from 0.
        """
        ...

    def after_step(self, student: nn.Module, step: int) -> None:
        """Called after the optimiser's step number ``step`` (from 0)."""
        ...

    def members(self, student: nn.Module) -> Sequence[nn.Module]:
        """The networks to predict with after the training, the best one first."""
        ...
