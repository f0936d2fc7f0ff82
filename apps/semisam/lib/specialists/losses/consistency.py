"""Agreement of two predictions of one scan."""

from __future__ import annotations

from torch import Tensor

from .shapes import check_same_shape


def consistency_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two softmax outputs ``[B, C, D, H, W]``; no gradient reaches the teacher.

    Raises ValueError when the shapes differ.

    Tarvainen and Valpola, https://arxiv.org/abs/1703.01780, section 2.
    """
    check_same_shape(student, teacher)
    return (student - teacher.detach()).square().mean()
