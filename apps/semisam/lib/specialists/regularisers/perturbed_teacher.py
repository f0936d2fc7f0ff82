"""FM-ABS's mean teacher: all scans, absolute differences, noise and contrast as perturbations.

"FM-ABS: Promptable Foundation Model Drives Active Barely Supervised Learning", MICCAI 2024, section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib.specialists.losses.consistency_mae import consistency_mae
from lib.specialists.ramps import sigmoid_ramp

from .base import Observation
from .teacher import TeacherRegulariser


class PerturbedTeacher(TeacherRegulariser):
    """The student must agree with its own moving average on every scan, human label or not.

    A human label says nothing about most voxels of its scan when only three planes are annotated.

    Args:
        weight: lambda_c at the end; it rises as ``weight * exp(-5 (1 - t / t_max)^2)``.
        most: how much of the teacher stays in a step, at most.
        contrast: largest relative change of the contrast that the teacher sees.
    """

    name = "perturbed_teacher"

    def __init__(self, weight: float = 0.1, most: float = 0.99, contrast: float = 0.3) -> None:
        super().__init__(weight, most)
        self.contrast = contrast

    def loss(self, seen: Observation) -> Tensor:
        """``lambda_c(t) * L_c``, on all scans."""
        if self.weight == 0.0:
            return seen.logits.new_zeros(())
        ramp = sigmoid_ramp(seen.step, seen.steps)
        return seen.share * self.weight * ramp * self.disagreement(seen.logits.softmax(dim=1), seen.images, ramp)

    def disagreement(self, student: Tensor, images: Tensor, ramp: float) -> Tensor:
        """L_c: mean absolute difference of the softmax of both, the teacher seeing another contrast and noise."""
        change = (torch.rand(len(images), 1, 1, 1, 1, generator=self._generator) * 2 - 1) * self.contrast
        return consistency_mae(student, self.taught(images * (1 + change.to(images.device))))
