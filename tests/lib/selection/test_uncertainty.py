"""Uncertainty of one prediction: values worked out by hand, and what must not change it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lib.selection import threshold_at, uncertainty_of
from lib.selection import uncertainty as module


def binary(foreground: Tensor) -> Tensor:
    return torch.stack([1 - foreground, foreground])


def bits(p: float) -> float:
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


def test_hand_computed_values() -> None:
    # Everywhere foreground, so that every voxel counts: a quarter at 0.6, the rest at 0.9.
    foreground = torch.full((4, 4, 4), 0.9)
    foreground[0] = 0.6
    found = uncertainty_of(binary(foreground), 0.75)
    assert found.least_confidence == pytest.approx(0.4, abs=1e-5)
    assert found.highest_entropy == pytest.approx((bits(0.6) + 3 * bits(0.9)) / 4, abs=1e-5)
    assert found.highest_entropy_ratio == pytest.approx(0.25)
    assert uncertainty_of(binary(foreground), 0.4).highest_entropy_ratio == 1.0
    assert uncertainty_of(binary(foreground), 0.99).highest_entropy_ratio == 0.0


def test_certain_predictions_are_not_doubtful_and_even_ones_are() -> None:
    mask = torch.zeros(8, 8, 8)
    mask[2:5, 2:5, 2:5] = 1
    sure = uncertainty_of(binary(mask), 0.5)
    assert (sure.least_confidence, sure.highest_entropy, sure.highest_entropy_ratio) == (0.0, 0.0, 0.0)
    even = uncertainty_of(torch.full((3, 6, 6, 6), 1 / 3), 0.75)
    assert even.least_confidence == pytest.approx(2 / 3)
    assert even.highest_entropy == pytest.approx(1.0)
    assert even.highest_entropy_ratio == 1.0


def test_doubt_between_two_of_three_classes_counts_in_full_for_the_ratio() -> None:
    probabilities = torch.zeros(3, 4, 4, 4)
    probabilities[1:] = 0.5  # 1 bit, but only 0.63 of the largest entropy
    found = uncertainty_of(probabilities, 0.75)
    assert found.highest_entropy_ratio == 1.0
    assert found.highest_entropy == pytest.approx(math.log(2) / math.log(3))


def prediction(size: int = 24, softness: float = 1.0) -> Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(size))] * 3, indexing="ij"))
    distance = (grid - torch.tensor([10.0, 11.0, 12.0]).view(3, 1, 1, 1)).norm(dim=0)
    return binary(torch.sigmoid((5.0 - distance) / softness))


def test_softer_borders_are_more_doubtful_by_every_measure() -> None:
    hard, soft = uncertainty_of(prediction(softness=0.5), 0.5), uncertainty_of(prediction(softness=1.5), 0.5)
    assert soft.least_confidence > hard.least_confidence
    assert soft.highest_entropy > hard.highest_entropy
    assert soft.highest_entropy_ratio > hard.highest_entropy_ratio


@pytest.mark.parametrize("axes", [(1,), (2, 3), (1, 2, 3)])
def test_flips_change_nothing(axes: tuple[int, ...]) -> None:
    own, turned = uncertainty_of(prediction(), 0.6), uncertainty_of(prediction().flip(axes), 0.6)
    for name in ("least_confidence", "highest_entropy", "highest_entropy_ratio"):
        assert getattr(turned, name) == pytest.approx(getattr(own, name), abs=1e-6)


def test_empty_background_around_changes_nothing() -> None:
    small = prediction()
    large = torch.zeros(2, 40, 40, 40)
    large[0] = 1.0
    large[:, 8:32, 8:32, 8:32] = small
    own, more = uncertainty_of(small, 0.6), uncertainty_of(large, 0.6)
    assert more.highest_entropy == pytest.approx(own.highest_entropy, abs=1e-6)
    assert more.least_confidence == pytest.approx(own.least_confidence, abs=1e-6)


def test_an_empty_prediction_is_judged_where_a_structure_is_likeliest() -> None:
    nothing, nearly = torch.zeros(20, 20, 20), torch.zeros(20, 20, 20)
    nearly[5:9, 5:9, 5:9] = 0.45
    assert uncertainty_of(binary(nothing), 0.5).highest_entropy == 0.0
    missed = uncertainty_of(binary(nearly), 0.5)
    assert missed.least_confidence > 0.3
    assert missed.highest_entropy_ratio > 0.5


def test_large_grids_are_thinned_and_give_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = uncertainty_of(prediction(64, softness=3.0), 0.6)
    monkeypatch.setattr(module, "_MOST_VOXELS", 64**3 // 6)
    thinned = uncertainty_of(prediction(64, softness=3.0), 0.6)
    assert thinned.least_confidence == pytest.approx(whole.least_confidence, abs=0.08)


def test_half_precision_is_accepted() -> None:
    assert uncertainty_of(prediction().half(), 0.6).highest_entropy == pytest.approx(
        uncertainty_of(prediction(), 0.6).highest_entropy, abs=1e-2
    )


def test_the_threshold_rises_from_a_half_to_three_quarters() -> None:
    values = [threshold_at(n / 10) for n in range(11)]
    assert values[0] == pytest.approx(0.5, abs=0.002)
    assert values[-1] == 0.75
    assert values == sorted(values)
    assert threshold_at(-1) == values[0]
    assert threshold_at(7) == 0.75
