"""The 3D network computes what the published one computes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lib.generalists.sam3d.image_encoder import Attention
from lib.generalists.sam3d.network import Sam3d
from parity import by_rule, parity_folder


@pytest.fixture(scope="module")
def shapes() -> dict[str, list[int]]:
    content: dict[str, list[int]] = json.loads(
        (parity_folder("sam_med3d.npz") / "sam_med3d.keys.json").read_text(encoding="utf-8")
    )
    return content


def test_keys_and_shapes_are_those_of_the_published_network(shapes: dict[str, list[int]]) -> None:
    with torch.device("meta"):
        own = Sam3d().state_dict()
    assert {key: list(value.shape) for key, value in own.items()} == shapes


@pytest.mark.slow
def test_outputs_are_those_of_the_published_network(shapes: dict[str, list[int]]) -> None:
    with torch.device("meta"):
        network = Sam3d()
    network.load_state_dict({key: by_rule(key, shape) for key, shape in shapes.items()}, strict=True, assign=True)
    arrays = np.load(parity_folder("sam_med3d.npz") / "sam_med3d.npz")

    def close(name: str, own: Tensor) -> None:
        reference = torch.from_numpy(arrays[name])
        assert own.shape == reference.shape
        assert float((own - reference).abs().max() / reference.abs().max()) < 1e-4, name

    image = np.random.default_rng(0).standard_normal((1, 1, 128, 128, 128), dtype=np.float32)
    mask = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 1, 32, 32, 32), dtype=np.float32))
    points, labels = torch.from_numpy(arrays["points"]), torch.from_numpy(arrays["point_labels"])
    with torch.inference_mode():
        features = network.encode(torch.from_numpy(image))
        close("embedding", features)
        logits, quality = network.answer(features, points, labels, None)
        close("logits_points", logits)
        close("iou_points", quality)
        close("logits_points_mask", network.answer(features, points, labels, mask)[0])
        close("logits_mask", network.answer(features, None, None, mask)[0])


@pytest.mark.parametrize(("grid", "window"), [(3, 3), (3, 5)])
def test_summed_up_padding_is_the_same_as_padding(grid: int, window: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Attention(8, 2, grid, window).double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    tokens = torch.randn((2, grid, grid, grid, 8), generator=generator, dtype=torch.float64)

    # As published: real padding, and the relative positions with their axes mixed up.
    padded = functional.pad(tokens, (0, 0) + (0, window - grid) * 3)
    query, key, value = layer.qkv(padded).unflatten(-1, (3, 2, 4)).permute(4, 0, 5, 1, 2, 3, 6).unbind(0)
    scores = torch.einsum("bndhwc,bnijkc->bndhwijk", query, key) / 2
    n = range(window)
    d, h, w = (
        torch.stack([torch.stack([table[a - b + window - 1] for b in n]) for a in n])
        for table in (layer.rel_pos_d, layer.rel_pos_h, layer.rel_pos_w)
    )
    scores = scores + torch.einsum("bndhwc,dkc->bndhwk", query, d)[..., None, None, :]
    scores = scores + torch.einsum("bndhic,hkc->bndhik", query, h)[..., None, :, None, :]
    scores = scores + torch.einsum("bndhjc,jkc->bndhjk", query, w)[..., None, None, :, :]
    weights = scores.flatten(5).softmax(-1)
    mixed = torch.einsum("bndhwm,bnmc->bdhwnc", weights, value.flatten(2, 4)).flatten(4)
    expected = layer.proj(mixed)[:, :grid, :grid, :grid]
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-5, atol=1e-5)
