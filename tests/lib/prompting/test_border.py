"""The border of an answer is smooth, and where a coarse grid has put it too far out it is drawn in."""

from __future__ import annotations

import numpy as np
import pytest

from lib.core.geometry import Volume
from lib.core.metrics import overlap
from lib.prompting import Clicks, GraphCut, OpenScan
from lib.prompting.border import smooth_border


def ball(radius: float, size: int = 40) -> np.ndarray:
    i, j, k = np.indices((size, size, size))
    return np.sqrt((i - size / 2) ** 2 + (j - size / 2) ** 2 + (k - size / 2) ** 2) < radius


def test_a_ragged_border_becomes_smooth_and_the_structure_stays_as_large() -> None:
    truth = ball(12)
    ragged = ball(11) | (ball(13) & (np.random.default_rng(0).random(truth.shape) < 0.5))
    found = smooth_border(ragged, (1, 1, 1), (1, 1, 1)) >= 0.5
    assert overlap(found, truth)[0] > overlap(ragged, truth)[0] + 0.02
    assert found.sum() == pytest.approx(truth.sum(), rel=0.05)


def test_on_a_grid_coarser_than_the_scan_the_border_is_drawn_in_by_one_voxel_of_the_scan_at_most() -> None:
    inside = ball(12)
    same = smooth_border(inside, (2, 2, 2), (2, 2, 2)) >= 0.5
    finer, finest = (smooth_border(inside, (2, 2, 2), own) >= 0.5 for own in [(1.2, 1.2, 1.2), (0.2, 0.2, 0.2)])
    assert finer.sum() < 0.95 * same.sum()
    assert finest.sum() > finer.sum()


def test_what_is_too_thin_to_be_smoothed_stays() -> None:
    sheet = np.zeros((30, 30, 30), dtype=bool)
    sheet[5:25, 15, 5:25] = True
    with_body = sheet | ball(6, 30)
    assert (smooth_border(with_body, (1, 1, 1), (1, 1, 1)) >= 0.5)[sheet].mean() > 0.95


def test_many_clicks_that_change_nothing_do_not_draw_the_border_in_again_and_again() -> None:
    truth = ball(30, 90)
    image = 100.0 * truth + np.random.default_rng(1).normal(size=truth.shape) * 10
    scan = OpenScan(Volume(image.astype(np.float32), np.diag([0.5, 0.5, 0.5, 1])), GraphCut())
    inside = [[45.0, 45, 45]]
    sizes = []
    for n in range(6):
        found = scan.segment(Clicks(np.array(inside), np.zeros((0, 3))))
        sizes.append(int(found.sum()))
        inside.append([45.0 + n, 45, 45])
    assert sizes[-1] > 0.97 * sizes[0]
