"""Brightness as a feature: as far as that of a template tells that of a scan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.core.geometry import Volume
from lib.generalists.mind import Mind
from lib.propagation import Template
from lib.propagation.brightness import Brightness, around, standardised, with_brightness
from lib.propagation.registration import RegistrationPropagator
from phantoms import blobs, dice

SHAPE = (24, 22, 20)


def features(seed: int = 0) -> Tensor:
    return Mind().encode(torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(seed)), (1, 1, 1))


def image() -> Tensor:
    return torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(3))


def joined(
    scan: Tensor, template: Tensor, moving: Tensor, covered: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    both = Brightness(scan, template, torch.ones_like(scan))
    everywhere = torch.ones_like(scan) if covered is None else covered
    return with_brightness(features(), moving, lambda: both, torch.zeros(3, *SHAPE), everywhere)


@pytest.mark.parametrize("contrast", [lambda v: v, lambda v: 1 - v, lambda v: v**2, lambda v: (v - 0.5).abs() * 2])
def test_whatever_the_contrast_the_templates_brightness_is_brought_to_the_scans(
    contrast: Callable[[Tensor], Tensor],
) -> None:
    template = image()
    found = joined(contrast(template), template, features())
    assert found is not None
    fixed, moving = (each[-1] for each in found)
    assert len(found[0]) == len(features()) + 1
    assert float((fixed - moving).abs().mean()) < 0.05 * float(fixed.std())


def test_brightness_that_tells_nothing_of_the_scans_is_left_out() -> None:
    assert joined(torch.rand(1, *SHAPE), image(), features()) is None


def test_brightness_is_left_out_where_the_features_hardly_agree() -> None:
    assert joined(image(), image(), features(seed=1)) is None


def test_scans_of_one_value_have_no_brightness_to_match() -> None:
    assert joined(torch.zeros(1, *SHAPE), image(), features()) is None


def test_where_the_template_has_nothing_the_scan_agrees_with_itself() -> None:
    covered = torch.ones(1, *SHAPE)
    covered[:, :6] = 0
    found = joined(image(), torch.where(covered > 0, image(), torch.zeros(())), features(), covered)
    assert found is not None
    assert torch.equal(found[0][-1, :6], found[1][-1, :6])


def test_brightness_lies_between_two_percentiles_of_the_scan() -> None:
    array = np.random.default_rng(0).normal(100, 20, (20, 20, 20)).astype(np.float32)
    found = standardised(torch.from_numpy(array)[None], Volume(array, np.eye(4)))
    assert (float(found.min()), float(found.max())) == (0.0, 1.0)
    assert 0.45 < float(found.mean()) < 0.55


def test_what_lies_around_a_structure_counts_with_it() -> None:
    structure = torch.zeros(1, 20, 20, 20)
    structure[:, 10, 10, 10] = 1
    assert around(structure)[0, 10, 10, 14] == 1
    assert around(structure)[0, 10, 10, 16] == 0


def test_the_rounding_that_resampling_leaves_is_no_structure() -> None:
    assert around(torch.full((1, 20, 20, 20), 1e-7)).sum() == 0


def test_inverted_contrast_is_matched_as_well(one_thread: None) -> None:
    scan, truth = blobs(seed=2, centre=(3, -3, 2))
    template, label = blobs(seed=1)
    inverted = Volume(np.ascontiguousarray(200 - scan.array), scan.affine)
    found = RegistrationPropagator(device="cpu").propagate(Template("t", template, label), inverted, 3, Mind())
    assert min(dice(found.labels(), truth, n) for n in (1, 2)) > 0.85
