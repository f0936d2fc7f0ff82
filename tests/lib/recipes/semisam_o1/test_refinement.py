"""Voxel-wise refinement on made-up scans whose structure is plain to see in the features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lib.core.uncertainty import normalised_entropy
from lib.recipes.semisam_o1.refinement import (
    Evidence,
    RefinementOptions,
    balanced,
    gather,
    position,
    refine,
    usual_distance,
)

# The scans are all but equal, so that the usual distance is next to nothing: places further away must count as well.
OPTIONS = RefinementOptions(strength=0.9, samples=600, far=200.0)


def scan(shift: int) -> tuple[Tensor, Tensor]:
    """Image ``[1, 16, 16, 16]`` of a bright cube and its truth ``[2, 16, 16, 16]``."""
    inside = torch.zeros(1, 16, 16, 16)
    inside[:, 4 + shift : 10 + shift, 5:11, 5:11] = 1
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(shift)) * 0.05
    return inside * 2 + noise, torch.cat([1 - inside, inside])


def evidence(image: Tensor, probabilities: Tensor, options: RefinementOptions = OPTIONS) -> Evidence:
    uncertainty = normalised_entropy(probabilities)
    return gather(image, image, probabilities, uncertainty, options, torch.Generator().manual_seed(0))


@pytest.fixture
def wrong() -> tuple[Tensor, Tensor, Tensor]:
    """Image, truth, and a prediction that leans the wrong way at two faces of the cube, without being sure."""
    image, truth = scan(1)
    prediction = truth * 0.98 + 0.01
    prediction[:, 10, 5:11, 5:11] = torch.tensor([0.6, 0.4])[:, None, None]
    prediction[:, 4, 5:11, 5:11] = torch.tensor([0.4, 0.6])[:, None, None]
    return image, truth, prediction


def test_unsure_voxels_are_corrected_and_sure_ones_stay(wrong: tuple[Tensor, Tensor, Tensor]) -> None:
    image, truth, prediction = wrong
    others = [evidence(*scan(shift)) for shift in (0, 2, 3)]
    own = evidence(image, prediction)
    assert len(own.unsure) == 72
    usual = usual_distance([own, *others], torch.Generator().manual_seed(0))
    refined = refine(prediction, own, others, usual, OPTIONS)
    assert bool((prediction.argmax(0) != truth.argmax(0)).any())
    assert torch.equal(refined.argmax(0), truth.argmax(0))
    kept = torch.ones(16**3, dtype=torch.bool)
    kept[own.unsure] = False
    assert torch.equal(refined.flatten(1)[:, kept], prediction.flatten(1)[:, kept])
    torch.testing.assert_close(refined.sum(0), torch.ones(16, 16, 16), atol=1e-5, rtol=0)


def test_votes_keep_the_share_of_each_class() -> None:
    generator = torch.Generator().manual_seed(0)
    votes = torch.rand(200, 3, generator=generator) * torch.tensor([5.0, 1.0, 1.0])  # far too much background
    votes /= votes.sum(1, keepdim=True)
    wanted = torch.tensor([0.4, 0.35, 0.25])
    found = balanced(votes, wanted)
    torch.testing.assert_close(found.mean(0), wanted, atol=1e-3, rtol=0)
    ratio, before = found[:, 1] / found[:, 0], votes[:, 1] / votes[:, 0]
    assert torch.equal(ratio.argsort(), before.argsort())
    assert bool(torch.isfinite(balanced(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, 1.0]))).all())


def test_without_near_neighbours_nothing_changes(wrong: tuple[Tensor, Tensor, Tensor]) -> None:
    image, _, prediction = wrong
    own = evidence(image, prediction)
    far = evidence(*scan(2))
    far = replace(far, features=far.features + 1000.0)
    torch.testing.assert_close(refine(prediction, own, [far], 1.0, OPTIONS), prediction, atol=1e-6, rtol=0)


def test_without_any_evidence_nothing_changes(wrong: tuple[Tensor, Tensor, Tensor]) -> None:
    image, _, prediction = wrong
    own = evidence(image, prediction)
    empty = replace(own, features=own.features[:0], labels=own.labels[:0])
    assert torch.equal(refine(prediction, own, [], 1.0, OPTIONS), prediction)
    assert torch.equal(refine(prediction, own, [empty], 1.0, OPTIONS), prediction)
    assert usual_distance([empty, empty], torch.Generator()) == 1.0


def test_every_class_gives_evidence_even_if_nothing_is_sure() -> None:
    image, truth = scan(0)
    own = evidence(image, truth * 0.2 + 0.4)
    assert set(own.labels.argmax(1).tolist()) == {0, 1}


def test_a_prediction_without_structures_is_no_problem() -> None:
    image, truth = scan(0)
    empty = torch.zeros_like(truth)
    empty[0] = 1
    own = evidence(image, empty)
    assert len(own.features) == len(own.unsure) == 0


def test_position_is_relative_to_the_structures() -> None:
    small, large = torch.zeros(2, 20, 20, 20), torch.zeros(2, 40, 40, 40)
    small[1, 5:11, 5:11, 5:11] = 1
    large[1, 20:32, 20:32, 20:32] = 1
    small[0], large[0] = 1 - small[1], 1 - large[1]
    a, b = position(small), position(large)
    torch.testing.assert_close(a[:, 5, 5, 5], b[:, 20:22, 20:22, 20:22].mean(dim=(1, 2, 3)), atol=0.05, rtol=0)
