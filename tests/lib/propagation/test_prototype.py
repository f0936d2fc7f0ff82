"""Propagation by prototypes: one template for many scans, and features that are there already."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.generalists import CachedGeneralist, FeatureCache, Generalist
from lib.generalists.mind import Mind
from lib.propagation import SoftLabels, Template
from lib.propagation.prototype import PrototypePropagator
from lib.propagation.registration import RegistrationPropagator
from phantoms import blobs, dice


class Counting:
    """MIND that counts."""

    name = "mind"

    def __init__(self) -> None:
        self.encoded = 0
        self.weights_hash = ""

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        self.encoded += 1
        return Mind().encode(image, spacing)


def outlined(seed: int = 0) -> Template:
    scan, label = blobs(seed=seed)
    return Template("template", scan, label)


def propagate(template: Template, seed: int, generalist: Generalist, channels: int = 3) -> SoftLabels:
    return PrototypePropagator().propagate(template, blobs(seed=seed)[0], channels, generalist)


def same(one: SoftLabels, other: SoftLabels) -> bool:
    return torch.equal(one.probabilities, other.probabilities) and torch.equal(one.confidence, other.confidence)


@pytest.mark.parametrize("own", [False, True])
def test_the_second_run_encodes_nothing_and_finds_the_same(tmp_path: Path, own: bool) -> None:
    results = []
    for _ in range(2):  # as two processes would: nothing is shared but the folder
        cache = FeatureCache(tmp_path)
        generalist = CachedGeneralist(Mind(), cache, own=own)
        template = outlined()
        results.append(([propagate(template, seed, generalist) for seed in (1, 2)], cache.encodes, cache.hits))
    (first, *first_counts), (second, *second_counts) = results
    assert first_counts[0] == 3
    assert second_counts[0] == 0
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    plain = propagate(outlined(), 1, Mind())
    agree = plain.labels() == first[0].labels()
    assert agree.mean() > 0.99


def test_kept_features_of_mind_are_small(tmp_path: Path) -> None:
    template = outlined()
    propagate(template, 1, CachedGeneralist(Mind(), FeatureCache(tmp_path), own=False))
    voxels = template.scan.array.size
    sizes = [f.stat().st_size for f in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 12 * 2 * voxels / 7


def test_a_template_is_encoded_once_for_many_scans() -> None:
    propagator, counting, template = PrototypePropagator(), Counting(), outlined()
    for seed in (1, 2, 3):
        found = propagator.propagate(template, blobs(seed=seed)[0], 3, counting)
        assert same(found, propagate(outlined(), seed, Mind()))
    assert counting.encoded == 4


def test_prototypes_belong_to_the_label_the_classes_and_the_weights() -> None:
    propagator, counting, template = PrototypePropagator(), Counting(), outlined()
    scan = blobs(seed=1)[0]
    propagator.propagate(template, scan, 3, counting)
    swapped = Template(template.name, template.scan, np.array([0, 2, 1], np.uint8)[template.label])
    found = propagator.propagate(swapped, scan, 3, counting)
    assert same(found, PrototypePropagator().propagate(swapped, scan, 3, Mind()))
    assert propagator.propagate(template, scan, 4, counting).probabilities.shape[0] == 4
    before = counting.encoded
    counting.weights_hash = "other"
    propagator.propagate(template, scan, 4, counting)
    assert counting.encoded == before + 2
    propagator.propagate(template, scan, 4, Counting())
    assert counting.encoded == before + 2


@pytest.mark.slow
def test_a_template_is_not_held_by_its_prototypes() -> None:
    propagator, template = PrototypePropagator(), outlined()
    propagator.propagate(template, blobs(seed=1)[0], 3, Mind())
    gone = weakref.ref(template)
    del template
    gc.collect()
    assert gone() is None


def test_a_structure_thinner_than_a_place_is_found() -> None:
    scan, label = blobs()
    sheet = np.where(label == 2, 2, 0).astype(np.uint8)
    sheet[:, :, 20] = np.where(label[:, :, 20] == 1, 1, 0)  # one voxel thick; places are two wide
    found = PrototypePropagator().propagate(Template("t", scan, sheet), scan, 3, Mind())
    assert int((found.labels() == 1).sum()) > 0


def test_turned_scans_get_the_same_label() -> None:
    template = outlined()
    scan, truth = blobs(seed=4)
    plain = PrototypePropagator().propagate(template, scan, 3, Mind()).labels()
    assert dice(plain, truth, 1) > 0.5
    flipped = type(scan)(
        np.ascontiguousarray(scan.array[::-1]),
        scan.affine @ np.array([[-1, 0, 0, scan.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float),
    )
    turned = PrototypePropagator().propagate(template, flipped, 3, Mind()).labels()
    assert np.array_equal(turned[::-1], plain)


def test_registration_is_the_same_to_the_bit_where_mind_keeps_only_means(tmp_path: Path) -> None:
    cached = CachedGeneralist(Mind(), FeatureCache(tmp_path), own=False)
    scan = blobs(seed=5)[0]
    kept, plain = (RegistrationPropagator(iterations=5).propagate(outlined(), scan, 3, g) for g in (cached, Mind()))
    assert same(kept, plain)
    assert list(tmp_path.iterdir()) == []
