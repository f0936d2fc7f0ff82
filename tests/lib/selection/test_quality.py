"""How good a pseudo-label is, without its truth: the estimate and what it is made of."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from lib.core.geometry import Volume
from lib.core.metrics import mean_dice
from lib.generalists.mind import Mind
from lib.propagation import Template
from lib.selection import Calibration, Shape, estimate_quality, opinions_on, plausibility, reverse_dice, shapes_of
from lib.selection.quality import certainty
from phantoms import blobs, dice

SCAN, LABEL = blobs()


def soft(label: np.ndarray, sureness: float = 1.0, count: int = 2) -> Tensor:
    classes = torch.stack([torch.from_numpy(label == v).float() for v in range(count + 1)])
    return classes * sureness + (1 - sureness) / (count + 1)


def shifted(voxels: int) -> np.ndarray:
    return np.roll(LABEL, voxels, axis=1)


# --- certainty --------------------------------------------------------------------------------------------------------


def test_certainty_is_the_dice_expected_from_the_probabilities() -> None:
    # 8 voxels of mask at 0.75, all others certain: 2 * 6 / (6 + 8).
    probabilities = torch.zeros(2, 8, 8, 8)
    probabilities[1, 3:5, 3:5, 3:5] = 0.75
    probabilities[0] = 1 - probabilities[1]
    assert certainty(probabilities) == pytest.approx((12 / 14,))


def test_certainty_of_sure_and_of_missing_structures() -> None:
    assert certainty(soft(LABEL)) == pytest.approx((1.0, 1.0))
    only_first = np.where(LABEL == 1, 1, 0)
    assert certainty(soft(only_first)) == pytest.approx((1.0, 1.0))
    nothing = torch.zeros(2, 8, 8, 8)
    nothing[1, 4, 4, 4] = 0.4
    nothing[0] = 1 - nothing[1]
    assert certainty(nothing) == pytest.approx((0.6,))


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_facts_of_a_box() -> None:
    array = np.random.default_rng(0).normal(size=(20, 10, 30)).astype(np.float32)
    scan = Volume(array, np.diag([2.0, 1.0, 0.5, 1.0]))
    label = np.zeros(scan.shape, np.uint8)
    label[4:8, 0:5, 10:20] = 1
    label[12, 9, 29] = 1
    box, missing = shapes_of(label, scan, 2)
    assert box.volume_ml == pytest.approx(201 / 1000)
    assert box.extent == pytest.approx((9 / 20, 1.0, 20 / 30))
    assert box.largest == pytest.approx(200 / 201)
    assert not missing.there


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_facts_do_not_depend_on_how_a_scan_is_stored(axis: int) -> None:
    affine = SCAN.affine.copy()
    affine[:, 3] += affine[:, axis] * (SCAN.shape[axis] - 1)
    affine[:3, axis] *= -1
    turned = Volume(np.flip(SCAN.array, axis).copy(), affine)
    for own, other in zip(shapes_of(LABEL, SCAN, 2), shapes_of(np.flip(LABEL, axis).copy(), turned, 2), strict=True):
        assert other.volume_ml == pytest.approx(own.volume_ml)
        assert other.extent == pytest.approx(own.extent)
        assert other.centre == pytest.approx(own.centre)


def test_plausibility_falls_the_further_a_shape_is_off() -> None:
    own = shapes_of(LABEL, SCAN, 2)[0]
    assert plausibility(own, [own]) == pytest.approx(1.0)
    assert plausibility(own, []) == 1.0
    larger = [
        plausibility(Shape(own.volume_ml * f, own.extent, own.centre, own.largest), [own]) for f in (1.2, 2.0, 5.0)
    ]
    assert 1.0 > larger[0] > larger[1] > larger[2]
    torn = Shape(own.volume_ml, own.extent, own.centre, 0.5)
    assert plausibility(torn, [own]) == pytest.approx(0.5)


def test_more_human_labels_narrow_down_what_is_plausible() -> None:
    own = shapes_of(LABEL, SCAN, 2)[0]
    odd = Shape(own.volume_ml * 1.6, own.extent, own.centre, own.largest)
    assert plausibility(odd, [own] * 12) < plausibility(odd, [own]) - 0.02


def test_a_missing_structure_is_as_plausible_as_it_is_common() -> None:
    there, missing = shapes_of(LABEL, SCAN, 2)[0], shapes_of(np.zeros_like(LABEL), SCAN, 1)[0]
    assert plausibility(missing, [there]) == 0.0
    assert plausibility(missing, [there, missing, missing, there]) == 0.5
    assert plausibility(there, [missing]) == 0.0


# --- estimate ---------------------------------------------------------------------------------------------------------


def test_agreement_is_the_dice_with_all_the_other_labels() -> None:
    found = estimate_quality(LABEL, SCAN, 2, opinions=[LABEL, shifted(2), shifted(-1)])
    expected = np.array([dice(LABEL, shifted(2), v) * dice(LABEL, shifted(-1), v) for v in (1, 2)])
    assert found.signals["agreement"] == pytest.approx(tuple(expected))
    assert found.dice == pytest.approx(tuple(expected))
    assert found.mean == pytest.approx(float(expected.mean()))
    assert set(found.signals) == {"agreement"}


def test_who_may_judge_a_label() -> None:
    corrected, elsewhere = shifted(1), shifted(3)
    assert opinions_on(LABEL, 2, propagated=None, predicted=None) == []
    both = opinions_on(LABEL, 2, propagated=elsewhere, predicted=corrected)
    assert both[0] is elsewhere
    assert both[1] is corrected
    almost = LABEL.copy()
    almost[tuple(np.argwhere(LABEL > 0)[0])] = 0  # rounding
    assert opinions_on(LABEL, 2, propagated=None, predicted=almost) == []
    assert len(opinions_on(LABEL, 2, propagated=LABEL, predicted=None)) == 1


def test_a_perfect_case_and_nothing_to_go_by() -> None:
    humans = [shapes_of(LABEL, SCAN, 2)]
    found = estimate_quality(
        LABEL, SCAN, 2, opinions=[LABEL], probabilities=soft(LABEL), humans=humans, reverse=[(0.9, 0.8)]
    )
    assert found.mean == pytest.approx(1.0)
    assert set(found.signals) == {"agreement", "certainty", "reverse", "shape"}
    assert estimate_quality(LABEL, SCAN, 2).mean == 0.5


def test_labels_on_which_all_agree_are_caught_by_shape_and_by_the_reverse_propagation() -> None:
    huge = np.where(SCAN.array > 5, 1, 0).astype(np.uint8)
    humans = [tuple(shapes_of(LABEL, SCAN, 1))]
    agreed = estimate_quality(huge, SCAN, 1, opinions=[huge], probabilities=soft(huge, count=1))
    assert agreed.mean == pytest.approx(1.0)
    assert estimate_quality(huge, SCAN, 1, opinions=[huge], humans=humans).mean < 0.5
    assert estimate_quality(huge, SCAN, 1, opinions=[huge], reverse=[(0.1,), (0.05,)]).mean == pytest.approx(0.25)


def test_an_empty_label_gets_nothing_when_humans_see_structures() -> None:
    empty = np.zeros_like(LABEL)
    humans = [shapes_of(LABEL, SCAN, 2)]
    assert estimate_quality(empty, SCAN, 2, opinions=[empty], humans=humans).mean == 0.0
    one = estimate_quality(np.where(LABEL == 1, 1, 0), SCAN, 2, opinions=[np.where(LABEL == 1, 1, 0)], humans=humans)
    assert one.dice == pytest.approx((1.0, 0.0))


def test_the_estimate_orders_labels_like_their_true_dice() -> None:
    """Labels of one scan with errors of many sizes; opinions with errors of their own."""
    random = np.random.default_rng(0)
    estimates, truths = [], []
    for n in range(12):
        label = np.roll(LABEL, (n // 2, n % 2), (0, 2))
        opinion = np.roll(LABEL, tuple(random.integers(-1, 2, 2)), (1, 2))
        estimates.append(estimate_quality(label, SCAN, 2, opinions=[opinion], probabilities=soft(label, 0.8)).raw)
        truths.append(mean_dice(label, LABEL, 2))
    assert spearmanr(estimates, truths)[0] > 0.8


def test_the_reverse_propagation_tells_a_good_label_from_a_wrong_one() -> None:
    other, truth = blobs(seed=3, centre=(3, -2, 1))
    template = Template("outlined", SCAN, LABEL)
    good = reverse_dice(truth, other, template, 2, Mind())
    wrong = reverse_dice(np.roll(truth, 9, axis=1), other, template, 2, Mind())
    assert min(good) > 0.75
    assert max(wrong) < 0.5


# --- calibration ------------------------------------------------------------------------------------------------------


def test_few_pairs_change_nothing() -> None:
    found = Calibration.fit([0.5] * 7, [0.9] * 7)
    assert [found(x) for x in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]
    assert Calibration()(1.7) == 1.0


def test_a_bias_is_learnt() -> None:
    estimates = [0.6 + 0.015 * n for n in range(24)]
    found = Calibration.fit(estimates, [e - 0.2 for e in estimates])
    for x in (0.65, 0.8, 0.9):
        assert found(x) == pytest.approx(x - 0.2, abs=0.02)


def test_it_never_turns_the_order_round() -> None:
    random = np.random.default_rng(0)
    found = Calibration.fit(random.uniform(0.3, 0.9, 40).tolist(), random.uniform(0, 1, 40).tolist())
    values = [found(x) for x in np.linspace(0, 1, 200)]
    assert all(a < b for a, b in pairwise(values))
    assert values[0] >= 0
    assert values[-1] <= 1


def test_equal_estimates_and_missing_values_are_survived() -> None:
    found = Calibration.fit([0.7] * 10 + [math.nan], [0.4, 0.6] * 5 + [0.5])
    assert found(0.7) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="zip"):
        Calibration.fit([0.1, 0.2], [0.1])


def test_a_calibrated_estimate_keeps_the_raw_one() -> None:
    calibration = Calibration((0.5,), (0.25,))
    found = estimate_quality(LABEL, SCAN, 2, calibration=calibration)
    assert (found.raw, found.mean, found.dice) == (0.5, 0.25, (0.25, 0.25))
