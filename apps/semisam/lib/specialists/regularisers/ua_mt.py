"""Uncertainty-aware mean teacher.

Yu et al., "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium segmentation", MICCAI 2019,
https://arxiv.org/abs/1907.07034
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib.specialists.losses import entropy_in_bits, masked_consistency

from .teacher import TeacherRegulariser

_LOW = 0.75


class UncertaintyAwareMeanTeacher(TeacherRegulariser):
    """Student and teacher must agree where the teacher is sure; see ``TeacherRegulariser``.

    Args:
        weight: of the disagreement at the end of the training.
        most: how much of the teacher stays in a step, at most.
        passes: T, how often the teacher is asked, each time with other noise and dropout.
    """

    name = "ua_mt"

    def __init__(self, weight: float = 0.1, most: float = 0.99, passes: int = 8) -> None:
        super().__init__(weight, most)
        self.passes = passes

    def disagreement(self, student: Tensor, images: Tensor, ramp: float) -> Tensor:
        """Squared difference to the mean of the teacher's answers, where that mean's entropy is low.

        Equations 3 and 4. What is low rises from 0.75 to 1 bit, where two classes are equally likely.
        """
        taught = self.taught(images)
        for _ in range(self.passes - 1):
            taught += self.taught(images)
        taught /= self.passes
        sure = entropy_in_bits(taught) < _LOW + (1.0 - _LOW) * ramp
        return masked_consistency(student, taught, sure.to(torch.float32))
