"""Exponential moving average of a network.

Tarvainen and Valpola, "Mean teachers are better role models", https://arxiv.org/abs/1703.01780
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Network = TypeVar("Network", bound=nn.Module)


def teacher_of(student: Network) -> Network:
    """A copy of ``student`` that no gradient reaches."""
    teacher = deepcopy(student)
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher


def ema_rate(step: int, most: float = 0.99) -> float:
    """How much of the teacher stays: ``min(1 - 1 / (t + 1), most)``, so that it follows fast at first."""
    return min(1.0 - 1.0 / (step + 1), most)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, rate: float) -> None:
    """``teacher = rate * teacher + (1 - rate) * student``, for parameters and floating-point buffers.

    Other buffers (counters) are copied: a teacher with running statistics needs the student's.
    """
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    averaged: list[tuple[Tensor, Tensor]] = [(own, other.detach()) for own, other in pairs]
    for kept, new in zip(teacher.buffers(), student.buffers(), strict=True):
        if kept.is_floating_point():
            averaged.append((kept, new))
        else:
            kept.copy_(new)
    if averaged:
        own_values, other_values = zip(*averaged, strict=True)
        get_ema_multi_avg_fn(rate)(own_values, other_values, None)
