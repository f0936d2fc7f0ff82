"""Whether a propagation that failed is known as failed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.generalists import create_generalist
from lib.propagation import SoftLabels, Template, create_propagator, warnings_about, warnings_of
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


def _sure_of(*confidences: float, agreement: float | None = 0.9) -> SoftLabels:
    """Three structures, the first one large, with these confidences."""
    label = np.zeros((12, 12, 12), np.uint8)
    label[:8], label[9, :2, :2], label[11, :2, :2] = 1, 2, 3
    confidence = torch.ones(12, 12, 12)
    for value, each in enumerate(confidences, 1):
        confidence[torch.from_numpy(label == value)] = each
    scan = Volume(np.random.default_rng(0).random(label.shape, np.float32), np.eye(4))
    probabilities = torch.nn.functional.one_hot(torch.from_numpy(label).long(), 4).permute(3, 0, 1, 2).float()
    return SoftLabels(frame_of(scan), probabilities, confidence, ("t",), 0.6, agreement=agreement)


def test_confidence_is_a_mean_over_structures_as_dice_is() -> None:
    soft = _sure_of(0.6, 0.2, 0.1)
    assert soft.confidences() == pytest.approx((0.6, 0.2, 0.1))
    assert soft.mean_confidence() == pytest.approx(0.3)


def test_structures_that_are_hardly_right_are_named() -> None:
    soft = _sure_of(0.6, 0.2, 0.5)
    label = soft.labels()
    scan = Volume(label.astype(np.float32), np.eye(4))
    names = ("liver", "left adrenal", "spleen")

    def said(soft: SoftLabels) -> tuple[str, ...]:
        return warnings_of(soft, label, scan, [Template("t", scan, label)], names)

    assert said(soft) == ("Hardly certain: left adrenal. Check the place and the outline.",)
    assert said(_sure_of(0.6, 0.4, 0.5)) == ()
    assert said(_sure_of(0.6, 0.2, 0.5, agreement=None)) == ()  # of other propagators, it means something else
    (text,) = said(_sure_of(0.3, 0.2, 0.5, agreement=0.1))
    assert "the whole answer may be wrong" in text


def test_structure_whose_place_shows_something_else_is_named(template: Template) -> None:
    scan, truth = blobs(seed=2)
    near = ndimage.binary_dilation(truth == 2, iterations=12)
    noise = np.random.default_rng(0).normal(scan.array.mean(), scan.array.std(), scan.shape)
    changed = replace(scan, array=np.where(near, noise, scan.array).astype(np.float32))
    for each, expected in ((scan, ()), (changed, (2,))):
        soft = create_propagator("registration").propagate(template, each, 3, MIND)
        assert soft.doubtful() == expected
