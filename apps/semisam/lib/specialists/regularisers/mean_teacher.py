"""Mean teacher.

Tarvainen and Valpola, "Mean teachers are better role models", https://arxiv.org/abs/1703.01780, with the settings of
SemiSAM+ (https://arxiv.org/abs/2502.20749): weight 0.1, teacher noise of deviation 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ema import ema_rate, teacher_of, update_teacher
from ..losses import consistency_mse
from ..ramps import sigmoid_ramp


def input_noise(images: Tensor, generator: torch.Generator, deviation: float = 0.1) -> Tensor:
    """``clip(deviation * N(0, 1), -2 deviation, 2 deviation)`` of the shape of ``images``."""
    noise = torch.randn(images.shape, generator=generator).mul_(deviation).clamp_(-2 * deviation, 2 * deviation)
    return noise.to(images.device)


class MeanTeacher:
    """The student must agree with its own moving average on scans without a human label.

    Args:
        weight: of the consistency at the end of the training; it rises by a sigmoid ramp.
        most: how much of the teacher stays in a step, at most.
    """

    name = "mean_teacher"

    def __init__(self, weight: float = 0.1, most: float = 0.99) -> None:
        self.weight = weight
        self.most = most
        self._steps = 1
        self._teacher: nn.Module | None = None
        self._generator = torch.Generator()

    @property
    def teacher(self) -> nn.Module:
        """The moving average of the student.

        Raises:
            RuntimeError: before ``start``.
        """
        if self._teacher is None:
            raise RuntimeError("MeanTeacher.start must be called first")
        return self._teacher

    def start(self, student: nn.Module, steps: int, generator: torch.Generator) -> None:
        """See ``Regulariser``."""
        self._steps = steps
        self._generator = generator
        self._teacher = teacher_of(student)

    def loss(self, images: Tensor, logits: Tensor, human: Tensor, step: int) -> Tensor:
        """Mean squared difference of the softmax of student and teacher, the teacher seeing a noisy scan."""
        chosen = ~human
        if not bool(chosen.any()):
            return logits.new_zeros(())
        seen = images[chosen]
        with torch.no_grad():
            target = self.teacher(seen + input_noise(seen, self._generator)).float().softmax(dim=1)
        weight = self.weight * sigmoid_ramp(step, self._steps)
        return weight * consistency_mse(logits[chosen].softmax(dim=1), target)

    def after_step(self, student: nn.Module, step: int) -> None:
        """Move the teacher towards the student."""
        update_teacher(self.teacher, student, ema_rate(step, self.most))

    def members(self, student: nn.Module) -> Sequence[nn.Module]:
        """The teacher, then the student."""
        return self.teacher, student
