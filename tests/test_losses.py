"""Losses against values worked out by hand, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from lib.specialists.losses import consistency_mse, noise_tolerant_dice, soft_cross_entropy, soft_dice


def two_voxels() -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and labels of two voxels and two classes, ``[1, 2, 2, 1, 1]``."""
    p = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).reshape(1, 2, 2, 1, 1)
    g = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 2, 1, 1)
    return p, g


def test_cross_entropy_is_the_weighted_mean() -> None:
    p, g = two_voxels()
    assert float(soft_cross_entropy(p.log(), g)) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2, rel=1e-5)
    weight = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1)
    assert float(soft_cross_entropy(p.log(), g, weight)) == pytest.approx(-math.log(0.8), rel=1e-5)
    assert float(soft_cross_entropy(p.log(), g, weight * 0)) == 0.0


def test_dice_with_squared_denominators() -> None:
    p, g = two_voxels()
    background = 1 - 2 * 0.8 / (0.8**2 + 0.4**2 + 1)
    structure = 1 - 2 * 0.6 / (0.2**2 + 0.6**2 + 1)
    assert float(soft_dice(p, g)) == pytest.approx((background + structure) / 2, abs=1e-4)
    assert float(soft_dice(g, g)) == pytest.approx(0.0, abs=1e-6)


def test_dice_ignores_voxels_without_weight() -> None:
    p, g = two_voxels()
    weight = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1)
    background = 1 - 2 * 0.8 / (0.8**2 + 1)
    structure = 1 - 0.0 / 0.2**2
    assert float(soft_dice(p, g, weight)) == pytest.approx((background + structure) / 2, abs=1e-3)


def test_noise_tolerant_dice() -> None:
    p, g = two_voxels()
    background = (0.2**1.5 + 0.4**1.5) / (0.8**2 + 0.4**2 + 1)
    structure = (0.2**1.5 + 0.4**1.5) / (0.2**2 + 0.6**2 + 1)
    assert float(noise_tolerant_dice(p, g)) == pytest.approx((background + structure) / 2, abs=1e-4)
    # gamma 2 is Dice: |p - g|^2 = p^2 + g^2 - 2 p g
    assert float(noise_tolerant_dice(p, g, gamma=2.0)) == pytest.approx(float(soft_dice(p, g)), abs=1e-4)


@pytest.mark.parametrize("loss", [soft_dice, noise_tolerant_dice])
def test_gradients_pull_towards_the_label_and_are_finite(loss) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    target = torch.zeros(1, 2, 4, 4, 4)
    target[:, 1, :2], target[:, 0, 2:] = 1, 1
    logits = torch.zeros(1, 2, 4, 4, 4, requires_grad=True)
    value = loss(logits.softmax(1), target)
    value.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 1, :2] < 0).all()
    assert (logits.grad[:, 1, 2:] > 0).all()
    perfect = target.clone().requires_grad_(True)
    loss(perfect, target).backward()
    assert perfect.grad is not None
    assert torch.isfinite(perfect.grad).all()


def test_consistency_reaches_the_student_only() -> None:
    student = torch.tensor([0.2, 0.8]).reshape(1, 2, 1, 1, 1).requires_grad_(True)
    teacher = torch.tensor([0.5, 0.5]).reshape(1, 2, 1, 1, 1).requires_grad_(True)
    value = consistency_mse(student, teacher)
    assert float(value) == pytest.approx(0.09)
    value.backward()
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0
    assert teacher.grad is None
