"""No regulariser: the labels alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.specialists.networks import SpecialistNetwork

from .base import Observation


class Supervised:
    """Adds nothing and keeps nothing; also the ground on which regularisers without a teacher stand."""

    name = "supervised"

    def start(self, student: SpecialistNetwork, classes: int, steps: int, generator: torch.Generator) -> None:
        """Nothing."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """None."""
        return ()

    def loss(self, seen: Observation) -> Tensor:
        """Zero."""
        return seen.logits.new_zeros(())

    def after_step(self, student: SpecialistNetwork, step: int) -> None:
        """Nothing."""

    def members(self, student: SpecialistNetwork) -> Sequence[SpecialistNetwork]:
        """The student."""
        return (student,)
