"""Agreement of two predictions of one scan, as absolute difference."""

from __future__ import annotations

from torch import Tensor

from .shapes import check_same_shape


def consistency_mae(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of two softmax outputs ``[B, C, D, H, W]``; no gradient reaches the teacher.

    Raises ValueError when the shapes differ.

    FM-ABS (MICCAI 2024), section 2.2, the distance d of L_c.
    """
    check_same_shape(student, teacher)
    return (student - teacher.detach()).abs().mean()
