"""The SAM that SC-SAM tunes, with the published weights of MobileSAM."""

from __future__ import annotations

import pytest
import torch

from lib.generalists import find_entry
from lib.generalists.sam2d.networks import load, mobile
from lib.generalists.sam2d.resized import resize_network
from lib.generalists.weights.state_dicts import load_weights
from lib.specialists.networks.sam.build import build_sam
from lib.specialists.spec import SpecialistSpec
from real_weights import weights_folder

pytestmark = [pytest.mark.realweights, pytest.mark.usefixtures("one_thread")]


def test_before_the_first_step_it_sees_what_mobile_sam_sees_at_256_pixels() -> None:
    state = load_weights(find_entry("mobile_sam"), weights_folder("mobile_sam"))
    spec = SpecialistSpec(("polyp",), (4, 8), (1.0, 1.0, 1.0), (256, 256, 1), network="mobile_sam", inputs=3, flat=True)
    pair = build_sam(spec, state).eval()
    published = resize_network(load(mobile, state, "mobile_sam"), 256)
    images = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(pair.sam.network.features(images), published.features(images), atol=1e-4, rtol=1e-4)
    learned = {name for name, value in pair.sam.network.image_encoder.named_parameters() if value.requires_grad}
    assert learned
    assert all("adapter" in name for name in learned)
