"""How the specialist's parts are put together: what trains it, what it sees, and on which grid it works."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib.specialists import SpecialistSpec, build_network
from lib.specialists.augment import Augmentation
from lib.specialists.predict import predict_prepared
from lib.specialists.spec import choose_spacing

SPEC = SpecialistSpec(("ball", "rod"), (4, 8), (3.0, 3.0, 3.0), (16, 16, 16))


def test_the_mean_of_two_equal_networks_is_the_answer_of_one() -> None:
    network = build_network(SPEC)
    image = torch.randn(1, 20, 18, 16)
    one = predict_prepared([network], SPEC, image)
    torch.testing.assert_close(predict_prepared([network, network], SPEC, image), one)


def test_training_windows_have_a_smooth_bias_field() -> None:
    """As of a coil: it brightens one side of a window and darkens another, by a fifth at most."""
    only_bias = replace(Augmentation(), rotation=0, scale=0, elastic=0, contrast=0, brightness=0, noise=0)
    flat = torch.ones(1, 24, 24, 24)
    window, _ = only_bias.window(flat, flat, (11.5, 11.5, 11.5), (24, 24, 24), torch.Generator().manual_seed(0))
    assert float(window.std()) > 0.03
    assert float((window - 1).abs().max()) <= 0.2 + 1e-5
    steps = torch.cat([(window.diff(dim=axis)).abs().flatten() for axis in (1, 2, 3)])
    assert float(steps.max()) < 0.08


@pytest.mark.parametrize(("share", "native"), [(1.4, True), (1.6, False)])
def test_the_scans_own_spacing_may_cost_half_as_much_again(share: float, native: bool) -> None:
    extent, budget = (100.0, 100.0, 100.0), 100_000
    own = 100.0 / (share * budget) ** (1 / 3)
    spacing = choose_spacing([extent], [(own, own, own)], budget)
    assert (spacing == pytest.approx((own, own, own), abs=1e-3)) == native
