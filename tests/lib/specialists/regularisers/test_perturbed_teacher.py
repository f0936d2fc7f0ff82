"""FM-ABS's consistency with a teacher that sees noise and another contrast."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lib.specialists.losses.consistency_mae import consistency_mae
from lib.specialists.regularisers.perturbed_teacher import PerturbedTeacher
from training_parts import TinyNetwork, gradient, observe


def test_consistency_is_the_mean_absolute_difference() -> None:
    student = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1, 1).requires_grad_()
    teacher = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1, 1).requires_grad_()
    loss = consistency_mae(student, teacher)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.3)
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.flatten().tolist() == pytest.approx([0.5, -0.5])


def _consistency(step: int, human: list[bool]) -> tuple[float, Tensor]:
    torch.manual_seed(0)
    regulariser = PerturbedTeacher()
    student = TinyNetwork()
    regulariser.start(student, 2, 100, torch.Generator().manual_seed(0))
    with torch.no_grad():
        student.head.weight += torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1, 1)
    seen = observe(student, torch.randn(2, 1, 4, 4, 4), human, step=step, steps=100)
    loss = regulariser.loss(seen)
    loss.backward()
    return float(loss.detach()), gradient(seen)


def test_consistency_acts_on_all_scans_and_its_weight_rises_as_in_the_paper() -> None:
    losses = []
    for step in (0, 50, 100):
        loss, grad = _consistency(step, [True, False])
        assert grad[0].abs().max() > 0
        assert grad[1].abs().max() > 0
        losses.append(loss)
    # lambda_c(t) = 0.1 exp(-5 (1 - t / t_max)^2)
    assert losses[0] / losses[2] == pytest.approx(math.exp(-5.0), rel=1e-5)
    assert losses[1] / losses[2] == pytest.approx(math.exp(-1.25), rel=1e-5)
