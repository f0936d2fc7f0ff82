"""Agreement of two predictions of one scan, as absolute difference."""

from __future__ import annotations

from torch import Tensor


def consistency_mae(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of two softmax outputs ``[B, C, D, H, W]``; no gradient reaches the teacher.

    FM-ABS (MICCAI 2024), section 2.2, the distance d of L_c.
    """
    return (student - teacher.detach()).abs().mean()
