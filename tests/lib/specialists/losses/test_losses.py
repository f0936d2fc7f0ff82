"""Losses against values worked out by hand, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from lib.specialists.losses import (
    consistency_mse,
    dual_task_consistency,
    entropy_in_bits,
    judgement_loss,
    masked_consistency,
    noise_tolerant_dice,
    signed_distance_maps,
    signed_distance_mse,
    soft_cross_entropy,
    soft_dice,
)
from lib.specialists.losses.consistency_mae import consistency_mae
from lib.specialists.losses.partial_cross_entropy import partial_cross_entropy


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


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, target, weight: soft_cross_entropy(logits, target, weight),
        lambda logits, target, weight: soft_dice(logits.softmax(1), target, weight),
        lambda logits, target, weight: noise_tolerant_dice(logits.softmax(1), target, weight),
        lambda logits, target, weight: masked_consistency(logits.softmax(1), target, weight),
    ],
    ids=["cross-entropy", "dice", "noise-tolerant dice", "masked consistency"],
)
def test_weights_switch_voxels_off(loss) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    target = torch.randn(2, 3, 4, 4, 4).softmax(1)
    weight = (torch.rand(2, 1, 4, 4, 4) < 0.5).float()
    loss(logits, target, weight).backward()
    assert logits.grad is not None
    pulled = logits.grad.abs().amax(dim=1, keepdim=True)
    assert float(pulled[weight == 0].max()) == 0
    assert float(pulled[weight == 1].min()) > 0


@pytest.mark.parametrize(
    "loss", [soft_cross_entropy, soft_dice, noise_tolerant_dice, masked_consistency, partial_cross_entropy]
)
def test_maps_and_weights_that_do_not_fit_are_refused(loss) -> None:  # type: ignore[no-untyped-def]
    maps, weight = torch.rand(2, 3, 4, 4, 4), torch.ones(2, 1, 4, 4, 4)
    loss(maps, maps, weight)
    for wrong in (maps[:1], maps[:, :1], maps[..., :1], maps[..., 0]):
        with pytest.raises(ValueError, match="shapes differ"):
            loss(maps, wrong, weight)
    by_class = [] if loss is noise_tolerant_dice else [maps]
    for wrong in (weight[:1], *by_class, weight[..., :1], weight[:, 0]):
        with pytest.raises(ValueError, match="does not fit"):
            loss(maps, maps, wrong)


def test_answers_of_two_networks_that_do_not_fit_are_refused() -> None:
    maps = torch.rand(2, 3, 4, 4, 4)
    for loss in (consistency_mse, consistency_mae):
        with pytest.raises(ValueError, match="shapes differ"):
            loss(maps, maps[:, :1])
    with pytest.raises(ValueError, match="shapes differ"):
        dual_task_consistency(maps, maps, 1500.0)  # the background has no distances


# --- agreement at some voxels -----------------------------------------------------------------------------------------


def test_masked_consistency_is_the_mean_inside_the_mask() -> None:
    student, _ = two_voxels()
    teacher = torch.full_like(student, 0.5).requires_grad_(True)
    first = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1)
    student.requires_grad_(True)
    assert float(masked_consistency(student, teacher, first).detach()) == pytest.approx(0.09)
    assert float(masked_consistency(student, teacher, first * 0 + 1).detach()) == pytest.approx((0.09 + 0.01) / 2)
    assert float(masked_consistency(student, teacher, first * 0).detach()) == 0
    masked_consistency(student, teacher, first).backward()
    assert teacher.grad is None


def test_entropy_is_one_bit_between_two_classes_of_any_number() -> None:
    of_two = torch.tensor([[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]]).reshape(1, 2, 3, 1, 1)
    expected = torch.tensor([1.0, 0.0, -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)])
    torch.testing.assert_close(entropy_in_bits(of_two).flatten(), expected)
    of_four = torch.tensor([[0.5, 0.25], [0.5, 0.25], [0.0, 0.25], [0.0, 0.25]]).reshape(1, 4, 2, 1, 1)
    torch.testing.assert_close(entropy_in_bits(of_four).flatten(), torch.tensor([1.0, 2.0]))


# --- discriminator ----------------------------------------------------------------------------------------------------


def test_judgement_is_binary_cross_entropy() -> None:
    scores = torch.tensor([0.0, math.log(3)], requires_grad=True)  # sigmoid: 1/2 and 3/4
    assert float(judgement_loss(scores, True).detach()) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert float(judgement_loss(scores, False).detach()) == pytest.approx((math.log(2) + math.log(4)) / 2)
    judgement_loss(scores, True).backward()
    torch.testing.assert_close(scores.grad, torch.tensor([-1 / 4, -1 / 8]))


# --- distances --------------------------------------------------------------------------------------------------------


def line(*labels: int, classes: int = 3) -> torch.Tensor:
    """One-hot labels of a row of voxels, ``[1, classes, 1, 1, n]``."""
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).T.float().reshape(1, classes, 1, 1, -1)


def test_signed_distances_of_a_row() -> None:
    maps = signed_distance_maps(line(0, 1, 1, 0, 2)).reshape(2, 5)
    # Half a voxel to the surface beside it, one and a half for the next; divided by the largest of each side.
    torch.testing.assert_close(maps[0], torch.tensor([1 / 3, -1.0, -1.0, 1 / 3, 1.0]))
    torch.testing.assert_close(maps[1], torch.tensor([1.0, 2.5 / 3.5, 1.5 / 3.5, 0.5 / 3.5, -1.0]))


def test_missing_and_filling_structures_have_distances_too() -> None:
    maps = signed_distance_maps(line(1, 1, 1))
    assert (maps[:, 0] == -1).all()
    assert (maps[:, 1] == 1).all()


@pytest.mark.parametrize("size", [(9, 13, 11), (8, 8, 1), (1, 4, 17)])
def test_signed_distances_are_euclidean_and_tell_the_sides(size: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    target = torch.randn(2, 3, *size)
    target[:, 1, :5, :3] += 2
    labels = target.argmax(1).numpy()
    maps = signed_distance_maps(target).numpy()
    for scan in range(2):
        for structure in (1, 2):
            inside = labels[scan] == structure
            outer = np.where(inside, 0, distance_transform_edt(~inside) - 0.5)
            inner = np.where(inside, distance_transform_edt(inside) - 0.5, 0)
            expected = outer / outer.max() - inner / inner.max()
            np.testing.assert_allclose(maps[scan, structure - 1], expected, atol=1e-5)


def test_distance_loss_is_the_mean_square() -> None:
    predicted = torch.tensor([0.5, -1.0]).reshape(1, 1, 1, 1, 2).requires_grad_(True)
    value = signed_distance_mse(predicted, torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 1, 2))
    assert float(value.detach()) == pytest.approx(0.125)
    value.backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad.flatten(), torch.tensor([-0.5, 0.0]))


def test_dual_task_consistency_compares_structures_with_a_step() -> None:
    p = torch.tensor([0.1, 0.75, 0.15]).reshape(1, 3, 1, 1, 1).requires_grad_(True)
    z = torch.tensor([math.log(3) / 2, 0.0]).reshape(1, 2, 1, 1, 1).requires_grad_(True)
    value = dual_task_consistency(p, z, sharpness=2.0)  # steps: 1/4 and 1/2
    assert float(value.detach()) == pytest.approx((0.5**2 + 0.35**2) / 2)
    value.backward()
    assert p.grad is not None
    torch.testing.assert_close(p.grad.flatten(), torch.tensor([0.0, 0.5, -0.35]))
    assert z.grad is not None
    # d/dz (p - s)^2 / 2 = (p - s) k s (1 - s)
    torch.testing.assert_close(z.grad.flatten(), torch.tensor([0.5 * 2 * 3 / 16, -0.35 * 2 / 4]))


def test_true_distances_give_back_the_labels() -> None:
    target = line(0, 1, 1, 0, 2)
    assert float(dual_task_consistency(target, signed_distance_maps(target), sharpness=1500.0)) < 1e-6
