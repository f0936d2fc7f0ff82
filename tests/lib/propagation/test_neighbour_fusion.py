"""Labels fused over the neighbours of the place that a matching has found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lib.generalists.mind import Mind
from lib.propagation.neighbour_fusion import fused_over_neighbours, with_volumes_kept

SHAPE = (24, 22, 20)


def features(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return Mind().encode(torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)), (1, 1, 1))


def box(shape: tuple[int, int, int] = SHAPE, *, at: int = 7, size: int = 6) -> Tensor:
    """One structure and background ``[2, D, H, W]``."""
    labels = torch.zeros(2, *shape)
    labels[1, at : at + size, 6:14, : min(12, shape[2])] = 1
    labels[0] = 1 - labels[1]
    return labels


def shifted(values: Tensor, by: int) -> Tensor:
    return torch.roll(values, by, dims=1)


def wrong(found: Tensor, truth: Tensor) -> int:
    return int((found.argmax(0) != truth.argmax(0)).sum())


@pytest.mark.parametrize("shape", [SHAPE, (40, 32, 1)])
def test_a_matching_that_is_wrong_by_a_voxel_is_made_good(shape: tuple[int, int, int]) -> None:
    fixed, truth = features(shape), box(shape)
    found = fused_over_neighbours(fixed, shifted(fixed, 1), shifted(truth, 1))
    assert wrong(shifted(truth, 1), truth) > 0
    assert wrong(found, truth) < 0.1 * wrong(shifted(truth, 1), truth)


def test_a_matching_that_is_right_stays_and_probabilities_sum_to_one() -> None:
    fixed, truth = features(), box()
    found = fused_over_neighbours(fixed, fixed, truth)
    assert wrong(found, truth) == 0
    assert float(found.min()) >= 0
    torch.testing.assert_close(found.sum(0), torch.ones(SHAPE))


def test_structures_that_touch_the_edge_of_the_grid_are_fused_there_as_well() -> None:
    fixed, truth = features(), box(at=0, size=24)
    assert wrong(fused_over_neighbours(fixed, fixed, truth), truth) == 0


def test_a_label_without_structures_stays_as_it_is() -> None:
    nothing = torch.zeros(3, *SHAPE)
    nothing[0] = 1
    assert torch.equal(fused_over_neighbours(features(), features(), nothing), nothing)


def blurred(labels: Tensor) -> Tensor:
    return functional.avg_pool3d(labels[None], 3, stride=1, padding=1, count_include_pad=False)[0]


def plate() -> Tensor:
    """A structure one voxel thick: nowhere the most probable class after an average."""
    labels = torch.zeros(2, *SHAPE)
    labels[1, 4:20, 4:18, 10] = 1
    labels[0] = 1 - labels[1]
    return labels


def test_a_thin_structure_that_averaging_would_lose_keeps_its_volume() -> None:
    labels = plate()
    soft = blurred(labels) * 0.8 + 0.2 * labels  # its own plane is a little more probable than the ones beside it
    assert not bool((soft.argmax(0) == 1).any())
    kept = with_volumes_kept(soft, torch.zeros_like(labels))
    wanted = float(soft[1].sum())
    assert abs(int((kept.argmax(0) == 1).sum()) - wanted) <= 0.15 * wanted + 1
    assert not bool((kept.argmax(0) == 1)[:, :, [8, 12]].any())
    torch.testing.assert_close(kept.sum(0), torch.ones(SHAPE))


@pytest.mark.parametrize("name", ["plate", "line", "point"])
def test_where_an_average_tells_nothing_a_thin_structure_stays_as_it_was(name: str) -> None:
    """Features that are alike everywhere make of the fusion a plain average."""
    labels = torch.zeros(2, *SHAPE)
    across, down = {"plate": (16, 14), "line": (16, 1), "point": (1, 1)}[name]
    labels[1, 4 : 4 + across, 4 : 4 + down, 10] = 1
    labels[0] = 1 - labels[1]
    same = torch.zeros(4, *SHAPE)
    found = fused_over_neighbours(same, same, labels)
    assert wrong(found, labels) == 0
    torch.testing.assert_close(found.sum(0), torch.ones(SHAPE))


@pytest.mark.parametrize("value", [0.4, 0.45])
def test_volumes_do_not_swing_where_probabilities_are_alike(value: float) -> None:
    noise = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) * 0.01
    soft = torch.zeros(2, *SHAPE)
    soft[1, 4:20, 4:18, 9:12] = (value + noise)[4:20, 4:18, 9:12]
    soft[0] = 1 - soft[1]
    wanted = float(soft[1].sum())
    assert abs(int((with_volumes_kept(soft, soft).argmax(0) == 1).sum()) - wanted) <= 0.15 * wanted


def test_a_structure_that_is_nowhere_likely_is_not_made_up() -> None:
    soft = torch.zeros(2, *SHAPE)
    soft[1] = 0.05 + 0.03 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    soft[0] = 1 - soft[1]
    torch.testing.assert_close(with_volumes_kept(soft, soft), soft)


def test_a_large_structure_beside_a_small_one_is_left_alone() -> None:
    labels = torch.zeros(3, *SHAPE)
    labels[1, 2:22, 2:20, 2:10] = 1
    labels[2, 10:13, 10:13, 14:17] = 1
    labels[0] = 1 - labels[1:].sum(0)
    soft = blurred(labels)
    kept = with_volumes_kept(soft, labels)
    before, after = ([int((each.argmax(0) == n).sum()) for n in (1, 2)] for each in (soft, kept))
    assert before[1] < 0.9 * 27 <= after[1] + 1
    assert after[0] == before[0]
