"""What regularisers with a teacher have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.specialists.ema import ema_rate, teacher_of, update_teacher
from lib.specialists.networks import SpecialistNetwork
from lib.specialists.noise import input_noise
from lib.specialists.ramps import sigmoid_ramp

from .base import Observation, rows


class TeacherRegulariser(ABC):
    """The student must agree with its own moving average on scans without a human label.

    Args:
        weight: of the disagreement at the end of the training; it rises by a sigmoid ramp (0.1 in SemiSAM+'s code).
        most: how much of the teacher stays in a step, at most.
        every: the teacher is asked in one step of so many, and its term then counts as many times: on average the same
            gradient for less time.
    """

    name: str

    def __init__(self, weight: float = 0.1, most: float = 0.99, every: int = 3) -> None:
        self.weight = weight
        self.most = most
        self.every = every
        self._teacher: SpecialistNetwork | None = None
        self._generator = torch.Generator()

    @abstractmethod
    def disagreement(self, student: Tensor, images: Tensor, ramp: float) -> Tensor:
        """What the student is asked to make small; a scalar.

        Args:
            student: its probabilities ``[B, C, D, H, W]``, with gradient; none of the scans has a human label.
            images: what it saw, ``[B, inputs, D, H, W]``.
            ramp: how far the training has come, 0..1.
        """

    @property
    def teacher(self) -> SpecialistNetwork:
        """The moving average of the student.

        Raises:
            RuntimeError: before ``start``.
        """
        if self._teacher is None:
            raise RuntimeError(f"{type(self).__name__}.start must be called first")
        return self._teacher

    @torch.no_grad()
    def taught(self, images: Tensor) -> Tensor:
        """The teacher's probabilities ``[B, C, D, H, W]`` for a noisy copy of ``images``, other noise each time."""
        result: Tensor = self.teacher(images + input_noise(images, self._generator)).float().softmax(dim=1)
        return result

    def start(self, student: SpecialistNetwork, classes: int, steps: int, generator: torch.Generator) -> None:
        """Make the teacher: a copy of the student."""
        self._generator = generator
        self._teacher = teacher_of(student)

    def parameters(self) -> Sequence[nn.Parameter]:
        """None: the teacher follows, it does not learn."""
        return ()

    def loss(self, seen: Observation) -> Tensor:
        """The disagreement with the teacher on scans without a human label, weighted and ramped up; a scalar."""
        chosen = ~seen.labelled
        if seen.step % self.every or not bool(chosen.any()):
            return seen.logits.new_zeros(())
        ramp = sigmoid_ramp(seen.step, seen.steps)
        weight = self.every * self.weight * ramp
        those = rows(chosen)
        return weight * self.disagreement(seen.logits[those].softmax(dim=1), seen.images[those], ramp)

    def after_step(self, student: SpecialistNetwork, step: int) -> None:
        """Move the teacher towards the student."""
        update_teacher(self.teacher, student, ema_rate(step, self.most))

    def members(self, student: SpecialistNetwork) -> Sequence[SpecialistNetwork]:
        """The teacher, then the student."""
        return self.teacher, student
