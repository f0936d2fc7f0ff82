"""Agreement of two predictions of one scan."""

from __future__ import annotations

from torch import Tensor


def consistency_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two softmax outputs ``[B, C, D, H, W]``; no gradient reaches the teacher.

    Tarvainen and Valpola, https://arxiv.org/abs/1703.01780, section 2.
    """
    return (student - teacher.detach()).square().mean()
