"""Learning from annotated planes alone."""

from __future__ import annotations

import math

import pytest
import torch

from lib.recipes.fm_abs.plane_labels import PartialObjective
from lib.specialists.losses.partial_cross_entropy import partial_cross_entropy
from training_parts import TinyNetwork, gradient, observe


def test_partial_cross_entropy_is_the_mean_over_annotated_voxels_of_each_window() -> None:
    logits = torch.zeros(3, 2, 1, 1, 4)
    logits[0, 1, 0, 0] = torch.tensor([1.0, -2.0, 9.0, 9.0])
    logits[1, 1] = 3.0
    target = torch.zeros(3, 2, 1, 1, 4)
    target[:, 0] = 1.0
    weight = torch.zeros(3, 1, 1, 1, 4)
    weight[0, 0, 0, 0, :2] = torch.tensor([1.0, 0.5])
    weight[1] = 1.0
    first = (math.log1p(math.exp(1.0)) + 0.5 * math.log1p(math.exp(-2.0))) / 1.5
    second = math.log1p(math.exp(3.0))
    assert float(partial_cross_entropy(logits, target, weight)) == pytest.approx((first + second) / 2, rel=1e-5)
    assert float(partial_cross_entropy(logits, target, torch.zeros_like(weight))) == 0.0


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_no_gradient_off_the_planes_and_none_from_scans_without_a_label(overlap: float) -> None:
    images = torch.randn(2, 1, 4, 4, 4)
    targets = torch.zeros(2, 2, 4, 4, 4)
    targets[:, 0] = 1.0
    targets[:, 0, 1, :2] = 0.0
    targets[:, 1, 1, :2] = 1.0
    weights = torch.zeros(2, 1, 4, 4, 4)
    weights[:, :, 1] = 1.0
    seen = observe(TinyNetwork(), images, [True, False], targets=targets, weights=weights)
    loss, metrics = PartialObjective(overlap)(seen)
    loss.backward()
    grad = gradient(seen)
    assert bool((grad[0, :, 1].abs() > 0).all())
    assert float(grad[0, :, [0, 2, 3]].abs().max()) == 0.0
    assert float(grad[1].abs().max()) == 0.0
    assert metrics["human_loss"] == pytest.approx(float(loss.detach()))


def test_a_batch_without_a_label_gives_no_loss() -> None:
    seen = observe(TinyNetwork(), torch.randn(1, 1, 2, 2, 2), [False])
    loss, metrics = PartialObjective()(seen)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert metrics == {}
