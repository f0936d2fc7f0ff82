"""Mean teacher, moving averages and ramps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lib.specialists.ema import ema_rate, teacher_of, update_teacher
from lib.specialists.ramps import linear_ramp, poly_decay, sigmoid_ramp
from lib.specialists.regularisers import MeanTeacher
from lib.specialists.regularisers.mean_teacher import input_noise


def test_ramps() -> None:
    assert sigmoid_ramp(0, 10) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(5, 10) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(99, 10) == sigmoid_ramp(0, 0) == 1.0
    assert [linear_ramp(n, 4) for n in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert poly_decay(0, 10) == 1
    assert poly_decay(10, 10) == 0
    assert poly_decay(5, 10) == pytest.approx(0.5**0.9)


def test_teacher_follows_parameters_and_buffers() -> None:
    student = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    teacher = teacher_of(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    of_teacher, of_student = teacher.state_dict(), student.state_dict()
    of_teacher["0.weight"].fill_(1.0)
    of_student["0.weight"].fill_(3.0)
    of_teacher["1.running_mean"].fill_(0.0)
    of_student["1.running_mean"].fill_(10.0)
    of_student["1.num_batches_tracked"].fill_(7)
    update_teacher(teacher, student, 0.75)
    after = teacher.state_dict()
    assert float(after["0.weight"]) == pytest.approx(1.5)
    assert float(after["1.running_mean"]) == pytest.approx(2.5)
    assert int(after["1.num_batches_tracked"]) == 7


def test_ema_rate_rises_to_its_limit() -> None:
    assert ema_rate(0) == 0.0
    assert ema_rate(1) == 0.5
    assert ema_rate(9) == pytest.approx(0.9)
    assert ema_rate(10_000) == 0.99


def test_input_noise_is_clipped_and_repeatable() -> None:
    images = torch.zeros(1, 1, 20, 20, 20)
    noise = input_noise(images, torch.Generator().manual_seed(1))
    assert float(noise.abs().max()) == pytest.approx(0.2)
    assert 0.08 < float(noise.std()) < 0.1
    assert torch.equal(noise, input_noise(images, torch.Generator().manual_seed(1)))


def test_mean_teacher_pulls_at_the_student_on_pseudo_labelled_items_only() -> None:
    torch.manual_seed(0)
    student = nn.Conv3d(1, 2, 1)
    regulariser = MeanTeacher(weight=0.1)
    regulariser.start(student, 10, torch.Generator().manual_seed(0))
    with torch.no_grad():
        student.weight.add_(1.0)
    images = torch.randn(2, 1, 4, 4, 4)
    logits = student(images)
    logits.retain_grad()
    loss = regulariser.loss(images, logits, torch.tensor([True, False]), step=10)
    loss.backward()
    assert float(loss) > 0
    assert logits.grad is not None
    assert float(logits.grad[0].abs().max()) == 0
    assert float(logits.grad[1].abs().max()) > 0
    assert regulariser.members(student) == (regulariser.teacher, student)

    before = regulariser.teacher.state_dict()["weight"].clone()
    regulariser.after_step(student, 1)
    torch.testing.assert_close(
        regulariser.teacher.state_dict()["weight"], (before + student.state_dict()["weight"]) / 2
    )


def test_mean_teacher_without_pseudo_labels_adds_nothing() -> None:
    regulariser = MeanTeacher()
    student = nn.Conv3d(1, 2, 1)
    regulariser.start(student, 10, torch.Generator())
    images = torch.randn(1, 1, 4, 4, 4)
    assert float(regulariser.loss(images, student(images), torch.tensor([True]), 3)) == 0


def test_mean_teacher_must_be_started() -> None:
    with pytest.raises(RuntimeError, match="start"):
        _ = MeanTeacher().teacher
