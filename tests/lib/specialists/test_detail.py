"""Small structures survive the working grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.core.metrics import overlap
from lib.specialists import Specialist, SpecialistPrediction, SpecialistSpec, choose_spacing
from lib.specialists.detail import Outline, spacing_for, volume_weights
from lib.specialists.prepare import label_map
from phantoms import sheet

SHAPE = (96, 96, 96)
BUDGET = 4_000
"""Voxels of a scan: a grid of about 6 mm on scans of 1 mm."""


def scan_with(*, organ: bool = False, gland: bool = False) -> tuple[Frame, np.ndarray]:
    """A scan of 1 mm, and a label with a large organ (1) and a gland of 3 mm (2), a slanting sheet."""
    label = np.zeros(SHAPE, np.uint8)
    if organ:
        label[8:50, 8:72, 8:64] = 1
    if gland:
        label[sheet(SHAPE, 3.0)] = 2
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    return frame_of(Volume(array, np.diag([-1.0, 1.0, 1.0, 1.0]))), label


def outline_of(frame: Frame, label: np.ndarray) -> Outline:
    found = Outline.of(frame, label)
    assert found is not None
    return found


def chosen(frame: Frame, label: np.ndarray) -> tuple[tuple[float, float, float], tuple[float, ...] | None]:
    outlines = [outline_of(frame, label)]
    spacing = spacing_for(outlines, [frame.extent], [frame.spacing], BUDGET)
    return spacing, volume_weights(outlines, spacing, 3)


def test_a_structure_thinner_than_the_grid_is_found_again_with_about_its_volume() -> None:
    frame, label = scan_with(organ=True, gland=True)
    spacing, weights = chosen(frame, label)
    assert weights is not None
    assert weights[:2] == (1.0, 1.0)
    grid = frame.with_spacing(spacing)
    soft = grid.one_hot(label, 3)
    truth = np.count_nonzero(label == 2)
    assert np.count_nonzero(label_map(grid, soft, None) == 2) < 0.3 * truth
    found = label_map(grid, soft, weights)
    assert 0.7 < np.count_nonzero(found == 2) / truth < 1.4
    assert overlap(found == 2, label == 2)[0] > 0.5
    assert overlap(found == 1, label == 1)[0] > 0.95


def test_scans_whose_small_structures_are_lost_get_a_finer_grid_within_bounds() -> None:
    frame, label = scan_with(organ=True, gland=True)
    (edge, *_), _ = chosen(frame, label)
    plain = choose_spacing([frame.extent], [frame.spacing], BUDGET)[0]
    assert edge < 0.9 * plain
    assert (plain / edge) ** 3 <= 2.01  # a prediction takes twice as long at most


def test_large_structures_keep_the_grid_and_count_alike() -> None:
    frame, label = scan_with(organ=True)
    assert chosen(frame, label) == (choose_spacing([frame.extent], [frame.spacing], BUDGET), None)


def test_without_an_outline_the_grid_is_that_of_the_budget() -> None:
    frame, label = scan_with()
    assert Outline.of(frame, label) is None
    assert spacing_for([], [frame.extent], [frame.spacing], BUDGET) == choose_spacing(
        [frame.extent], [frame.spacing], BUDGET
    )
    assert volume_weights([], (6.0, 6.0, 6.0), 3) is None


def test_a_structure_counts_by_the_scans_that_have_it() -> None:
    both, only_small = scan_with(organ=True, gland=True), scan_with(gland=True)
    spacing = (6.0, 6.0, 6.0)
    alone = volume_weights([outline_of(*only_small)], spacing, 3)
    together = volume_weights([outline_of(*only_small), outline_of(*both)], spacing, 3)
    assert alone is not None
    assert together is not None
    assert alone == pytest.approx(together, rel=0.2)


def test_what_is_segmented_follows_the_weights_and_the_probabilities_do_not() -> None:
    frame = Frame((4, 4, 4), (0, 1, 2), (False,) * 3, ((0, 4),) * 3, (1.0, 1.0, 1.0), (4, 4, 4))
    probabilities = torch.stack([torch.full((4, 4, 4), 0.6), torch.full((4, 4, 4), 0.4)])
    plain = SpecialistPrediction(frame, probabilities, probabilities[0])
    assert not plain.labels().any()
    weighted = replace(plain, volume_weights=(1.0, 2.0))
    assert weighted.labels().all()
    assert weighted.probability_map(1).max() == pytest.approx(0.4)


def test_a_specialist_answers_with_the_weights_of_its_training() -> None:
    from lib.specialists import build_network, predict

    torch.manual_seed(0)
    spec = SpecialistSpec(("ball",), (4, 8), (6.0, 6.0, 6.0), (16, 16, 16), volume_weights=(1.0, 50.0))
    volume = Volume(np.random.default_rng(0).normal(size=(48, 48, 48)).astype(np.float32), np.eye(4))
    network = build_network(spec)
    with torch.no_grad():
        network.head.bias[:] = torch.tensor([2.0, 0.0])  # type: ignore[union-attr, operator]
    found = predict(Specialist(spec, (network,)).to("cpu"), volume).labels()
    before = predict(Specialist(replace(spec, volume_weights=None), (network,)).to("cpu"), volume).labels()
    assert np.count_nonzero(found) > np.count_nonzero(before) + found.size / 10


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (1.0, "2"), (1.0, 1e9)])
def test_weights_that_mean_nothing_are_refused(weights: tuple[float, ...]) -> None:
    plain = SpecialistSpec(("ball",), (4, 8), (6.0, 6.0, 6.0), (16, 16, 16)).as_plain()
    with pytest.raises(ValueError, match="volume_weights"):
        SpecialistSpec.from_plain({**plain, "volume_weights": list(weights)})


def test_a_specialist_of_before_counts_all_classes_alike() -> None:
    plain = SpecialistSpec(("ball",), (4, 8), (6.0, 6.0, 6.0), (16, 16, 16)).as_plain()
    del plain["volume_weights"]
    assert SpecialistSpec.from_plain(plain).volume_weights is None
