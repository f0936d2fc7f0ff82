"""How propagators are put together: what a template does not show, other scanners, and structures that look alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.core.geometry import Volume
from lib.generalists.mind import Mind
from lib.propagation import Template
from lib.propagation.prototype import PrototypePropagator
from lib.propagation.registration import RegistrationPropagator
from phantoms import blobs, dice


def test_what_the_template_does_not_show_is_trusted_half() -> None:
    """Nothing is compared there, so nothing there can look wrong."""
    scan, truth = blobs((72, 60, 40), seed=5)
    moved = np.array([[1, 0, 0, 4], [0, 1, 0, 10], [0, 0, 1, 4], [0, 0, 0, 1]], dtype=float)
    part = Volume(np.ascontiguousarray(scan.array[4:44, 10:50, 4:36]), scan.affine @ moved)
    template = Template("part", part, np.ascontiguousarray(truth[4:44, 10:50, 4:36]))
    propagator = RegistrationPropagator(voxels=30_000, iterations=10, refine=False, device="cpu")
    found = propagator.propagate(template, scan, 3, Mind())
    confidence = found.frame.map_back(found.confidence)
    assert float(confidence[56:].max()) <= 0.55
    assert float(np.median(confidence[10:38, 16:44, 10:30])) > 0.6


class Offset:
    """MIND as other scanners would give it: each adds something else to all features of its scan."""

    name = "offset"

    def __init__(self, most: float) -> None:
        self.most = most
        self.images = 0

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        features = Mind().encode(image, spacing)
        self.images += 1
        added = (-1) ** self.images * torch.linspace(-self.most, self.most, len(features))
        return features + added.view(-1, 1, 1, 1)


def test_prototypes_do_not_mind_what_a_scanner_adds_to_all_of_a_scan() -> None:
    scan, label = blobs(seed=0)
    other, truth = blobs(seed=1)
    propagator = PrototypePropagator(voxels=30_000, device="cpu")
    plain, shifted = (
        propagator.propagate(Template("t", scan, label), other, 3, Offset(most)).labels() for most in (0.0, 2.0)
    )
    assert dice(plain, truth, 1) > 0.5
    assert float((plain == shifted).mean()) > 0.98


def test_prototypes_tell_left_from_right_where_both_look_the_same() -> None:
    half, _ = blobs((20, 44, 36), seed=3)
    array = np.concatenate([half.array, half.array[::-1]])
    scan = Volume(array, half.affine)
    bright = array > 50
    label = np.zeros(array.shape, np.uint8)
    label[:20][bright[:20]] = 1
    label[20:][bright[20:]] = 2
    found = PrototypePropagator(voxels=30_000, device="cpu").propagate(Template("t", scan, label), scan, 3, Mind())
    mixed = found.labels()
    assert float((mixed[:20][mixed[:20] > 0] == 1).mean()) > 0.9
    assert float((mixed[20:][mixed[20:] > 0] == 2).mean()) > 0.9
