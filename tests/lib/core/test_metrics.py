"""Overlap and surface distances against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib.core.metrics import LabelScores, mean_dice, overlap, score


def cube(shape: tuple[int, int, int], low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """A boolean box from ``low`` to before ``high``."""
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_overlap_of_half_shifted_boxes() -> None:
    a = cube((8, 4, 4), (0, 0, 0), (4, 4, 4))
    b = cube((8, 4, 4), (2, 0, 0), (6, 4, 4))
    dice, jaccard = overlap(a, b)
    assert dice == pytest.approx(0.5)
    assert jaccard == pytest.approx(1 / 3)


@pytest.mark.parametrize(("axis", "millimetres"), [(0, 3.0), (1, 0.5), (2, 2.0)])
def test_distances_are_in_millimetres_along_each_axis(axis: int, millimetres: float) -> None:
    # Two single voxels, three steps apart along one axis: every surface distance is the same.
    spacing = (3.0, 0.5, 2.0)
    a, b = np.zeros((9, 9, 9), dtype=bool), np.zeros((9, 9, 9), dtype=bool)
    place = [4, 4, 4]
    a[tuple(place)] = True
    place[axis] += 3
    b[tuple(place)] = True
    found = score(a, b, spacing)
    assert found.hd95_mm == pytest.approx(3 * millimetres)
    assert found.assd_mm == pytest.approx(3 * millimetres)
    assert found.dice == 0.0


def test_oblique_distance_is_euclidean_in_millimetres() -> None:
    a, b = np.zeros((4, 5, 6), dtype=bool), np.zeros((4, 5, 6), dtype=bool)
    a[0, 0, 0] = b[3, 4, 0] = True
    assert score(a, b, (1.0, 2.0, 7.0)).assd_mm == pytest.approx(math.hypot(3 * 1.0, 4 * 2.0))


def test_average_distance_by_hand() -> None:
    # A line of two voxels against a line of four that begins at the same place; all voxels are surface.
    a = cube((6, 1, 1), (0, 0, 0), (2, 1, 1))
    b = cube((6, 1, 1), (0, 0, 0), (4, 1, 1))
    # a to b: 0, 0; b to a: 0, 0, 1, 2 voxels of 1.5 mm: mean over all six is 3 voxels / 6.
    assert score(a, b, (1.5, 1.0, 1.0)).assd_mm == pytest.approx(0.5 * 1.5)
    # 95th percentiles: a to b 0; b to a between 1 and 2 at position 0.95 * 3 = 2.85: 1.85 voxels.
    assert score(a, b, (1.5, 1.0, 1.0)).hd95_mm == pytest.approx(1.85 * 1.5, rel=1e-5)


def test_both_distances_are_symmetric() -> None:
    # A stray voxel far off exists in one mask only: a one-sided distance would see it in one direction only.
    rng = np.random.default_rng(0)
    a = cube((20, 20, 20), (3, 3, 3), (9, 9, 9))
    b = a ^ (rng.random(a.shape) < 0.02)
    spacing = (0.7, 1.3, 2.5)
    one, other = score(a, b, spacing), score(b, a, spacing)
    assert one.hd95_mm == other.hd95_mm
    assert one.assd_mm == pytest.approx(other.assd_mm, rel=1e-5)
    assert one.hd95_mm > 1.0


def test_hd95_takes_the_worse_direction() -> None:
    a = cube((30, 3, 3), (0, 0, 0), (3, 3, 3))
    b = a.copy()
    b[20:24] = True  # more than 5 % of b's surface is far from a; all of a is close to b
    assert score(a, b, (1.0, 1.0, 1.0)).hd95_mm > 15
    assert score(b, a, (1.0, 1.0, 1.0)).hd95_mm > 15


def test_distances_do_not_depend_on_where_the_masks_lie() -> None:
    # At the border of the array the surface is that of the mask, not cut off by the array's end.
    a, b = cube((40, 12, 12), (0, 0, 0), (5, 5, 5)), cube((40, 12, 12), (0, 0, 0), (6, 5, 5))
    moved = [np.roll(mask, (20, 4, 4), axis=(0, 1, 2)) for mask in (a, b)]
    assert score(a, b, (1.0, 1.0, 1.0)) == score(moved[0], moved[1], (1.0, 1.0, 1.0))


def test_identical_masks() -> None:
    a = cube((6, 6, 6), (1, 1, 1), (4, 5, 4))
    assert score(a, a, (1.0, 2.0, 3.0)) == LabelScores(1.0, 1.0, 0.0, 0.0)


def test_empty_masks_have_a_defined_answer() -> None:
    empty, some = np.zeros((4, 4, 4), dtype=bool), cube((4, 4, 4), (1, 1, 1), (3, 3, 3))
    assert score(empty, empty, (1.0, 1.0, 1.0)) == LabelScores(1.0, 1.0, 0.0, 0.0)
    for a, b in ((empty, some), (some, empty)):
        found = score(a, b, (1.0, 1.0, 1.0))
        assert (found.dice, found.jaccard) == (0.0, 0.0)
        assert math.isnan(found.hd95_mm)
        assert math.isnan(found.assd_mm)
        assert found.missed


def test_mean_dice_counts_a_missed_structure_as_0_and_one_in_neither_map_as_1() -> None:
    truth = np.zeros((6, 4, 4), dtype=np.uint8)
    truth[:2], truth[2:4] = 1, 2
    prediction = truth.copy()
    prediction[truth == 2] = 0
    assert mean_dice(prediction, truth, 3) == pytest.approx(2 / 3)


def test_masks_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        score(np.zeros((2, 2, 2), dtype=bool), np.zeros((2, 2, 3), dtype=bool), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="spacing"):
        score(np.zeros((2, 2, 2), dtype=bool), np.zeros((2, 2, 2), dtype=bool), (1.0, 1.0))
