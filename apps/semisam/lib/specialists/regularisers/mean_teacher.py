"""Mean teacher.

Tarvainen and Valpola, "Mean teachers are better role models", https://arxiv.org/abs/1703.01780, with the weight 0.1
and the teacher's noise of deviation 0.1 of SemiSAM+'s published code; the paper (https://arxiv.org/abs/2502.20749)
leaves lambda open.
"""

from __future__ import annotations

from torch import Tensor

from lib.specialists.losses import consistency_mse

from .teacher import TeacherRegulariser


class MeanTeacher(TeacherRegulariser):
    """Student and teacher must agree everywhere; see ``TeacherRegulariser``."""

    name = "mean_teacher"

    def disagreement(self, student: Tensor, images: Tensor, ramp: float) -> Tensor:
        """Mean squared difference of the softmax of both."""
        return consistency_mse(student, self.taught(images))
