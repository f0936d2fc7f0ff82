"""An ensemble trusts the member whose result leads back to the human label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.core.metrics import mean_dice
from lib.generalists import Generalist
from lib.generalists.mind import Mind
from lib.propagation import SoftLabels, Template, create_propagator
from lib.propagation.ensemble import EnsemblePropagator
from lib.propagation.registration import RegistrationPropagator
from phantoms import blobs


class Wrong:
    """Sure of itself, and wrong: everything in a corner."""

    name = "wrong"

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        frame = frame_of(scan)
        label = np.zeros(scan.shape, dtype=np.uint8)
        label[:9, :9, :9] = 1
        label[9:14, :9, :9] = 2
        soft = frame.one_hot(label, channels)
        return SoftLabels(frame, soft, torch.ones(frame.shape), (template.name,), 1.0)


@pytest.mark.slow
def test_a_sure_but_wrong_member_hardly_counts() -> None:
    scan, truth = blobs(seed=1, centre=(2.0, -1.0, 1.0))
    other, label = blobs(seed=2)
    template = Template("t", other, label)
    good = RegistrationPropagator()
    alone = mean_dice(good.propagate(template, scan, 3, Mind()).labels(), truth, 2)
    soft = EnsemblePropagator([Wrong(), good]).propagate(template, scan, 3, Mind())
    torch.testing.assert_close(soft.probabilities.sum(0), torch.ones(soft.frame.shape))
    assert bool((soft.confidence >= 0).all() and (soft.confidence <= 1).all())
    assert mean_dice(soft.labels(), truth, 2) > alone - 0.02


@pytest.mark.slow
def test_it_is_a_propagator_like_any_other() -> None:
    scan, truth = blobs(seed=1)
    other, label = blobs(seed=2)
    soft = create_propagator("ensemble").propagate(Template("t", other, label), scan, 3, Mind())
    assert soft.templates == ("t",)
    assert soft.labels().shape == scan.shape
    assert mean_dice(soft.labels(), truth, 2) > 0.7
