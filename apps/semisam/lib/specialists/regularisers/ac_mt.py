"""Ambiguity-consensus mean teacher.

Xu et al., "Ambiguity-selective consistency regularization for mean-teacher semi-supervised medical image
segmentation", Medical Image Analysis 2023, https://doi.org/10.1016/j.media.2023.102880; of its ways to find ambiguous
voxels the one by entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib.specialists.losses import entropy_in_bits, masked_consistency

from .teacher import TeacherRegulariser

_LOW, _HIGH = 0.75, 0.95


class AmbiguityMeanTeacher(TeacherRegulariser):
    """Student and teacher must agree where the teacher is unsure; see ``TeacherRegulariser``."""

    name = "ac_mt"

    def disagreement(self, student: Tensor, images: Tensor, ramp: float) -> Tensor:
        """Squared difference where the teacher's entropy is high; what is high rises from 0.75 to 0.95 bit."""
        taught = self.taught(images)
        unsure = entropy_in_bits(taught) >= _LOW + (_HIGH - _LOW) * ramp
        return masked_consistency(student, taught, unsure.to(torch.float32))
