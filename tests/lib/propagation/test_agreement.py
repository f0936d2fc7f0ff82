"""Whether a propagation that failed is known as failed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.core.geometry import Volume
from lib.generalists import create_generalist
from lib.propagation import Template, create_propagator, warnings_about
from lib.propagation.agreement import agreement_around, trust
from phantoms import blobs, dice

MIND = create_generalist("mind")


@pytest.fixture(scope="module")
def template() -> Template:
    scan, label = blobs(seed=1)
    return Template("t", scan, label)


def test_a_label_that_is_right_agrees_and_keeps_its_confidence(template: Template) -> None:
    scan, truth = blobs(seed=2, centre=(2, -2, 1))
    soft = create_propagator("registration").propagate(template, scan, 3, MIND)
    assert dice(soft.labels(), truth, 1) > 0.8
    assert soft.agreement is not None
    assert trust(soft.agreement) == 1.0
    assert not warnings_about(soft.labels(), scan, [template], ("a", "b"), soft.similarity, soft.sound())


def test_a_scan_of_nothing_like_the_template_is_warned_of_and_hardly_trusted(template: Template) -> None:
    """Noise with the brightness of a body: something is carried over, and none of it is right."""
    noise = np.random.default_rng(0).normal(20, 5, template.scan.shape).astype(np.float32)
    scan = Volume(noise, template.scan.affine)
    soft = create_propagator("registration").propagate(template, scan, 3, MIND)
    said = warnings_about(soft.labels(), scan, [template], ("a", "b"), soft.similarity, soft.sound())
    assert any("may be wrong" in text or "Nothing" in text for text in said)
    assert soft.mean_confidence() < 0.1


def test_another_orientation_alone_is_no_reason_for_a_warning(template: Template) -> None:
    """A turned scan looks unlike the template as it lies, but what was found in it is right."""
    label = template.label
    turned = replace(template.scan, array=np.rot90(template.scan.array, 2).copy())
    found = np.rot90(label, 2).copy()
    assert any("looks unlike" in text for text in warnings_about(found, turned, [template], ("a", "b"), 0.05))
    assert warnings_about(found, turned, [template], ("a", "b"), 0.05, True) == ()


def test_agreement_is_that_of_places_which_the_template_covers() -> None:
    generator = torch.Generator().manual_seed(0)
    fixed = torch.rand(12, 24, 24, 24, generator=generator)
    moved = fixed.clone()
    moved[:, :12] = torch.rand(12, 12, 24, 24, generator=generator)
    probabilities = torch.zeros(2, 24, 24, 24)
    probabilities[1, 8:16, 8:16, 8:16] = 1
    covered = torch.ones(24, 24, 24)
    still = torch.zeros(3, 24, 24, 24)
    half = agreement_around(fixed, moved, probabilities, covered, still)
    covered[:12] = 0
    assert agreement_around(fixed, moved, probabilities, covered, still) > 0.95
    assert half < 0.7
    assert agreement_around(fixed, moved, torch.zeros_like(probabilities), covered, still) == 0.0
