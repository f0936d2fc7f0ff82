"""SAM's encoder is made for one image size."""

from __future__ import annotations

import pytest
import torch

from lib.upstream.sam_size import resize_encoder, resize_prompts
from sam_parts import SIZE, tiny_mobile, tiny_vit_b


def test_another_image_size_is_refused_without_us() -> None:
    network = tiny_vit_b()
    image = torch.randn(1, 3, 2 * SIZE, 2 * SIZE)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="size of tensor"):
            network.image_encoder(image)
        resize_encoder(network.image_encoder, 2 * SIZE // 16)
        assert network.image_encoder(image).shape == (1, 32, 8, 8)


def test_prompts_are_placed_on_the_image_that_was_first_named_without_us() -> None:
    encoder = tiny_vit_b().prompt_encoder
    assert encoder.get_dense_pe().shape[-2:] == (4, 4)
    middle = (torch.tensor([[[SIZE / 2, SIZE / 2]]]), torch.ones(1, 1))
    before, _ = encoder(points=middle, boxes=None, masks=None)
    resize_prompts(encoder, 8, 2 * SIZE)
    assert encoder.get_dense_pe().shape[-2:] == (8, 8)
    half_pixel = (2 * middle[0] + 0.5, middle[1])  # a pixel's centre: half a pixel lies between it and its corner
    after, _ = encoder(points=half_pixel, boxes=None, masks=None)
    assert torch.allclose(after, before, atol=1e-5)


def test_an_encoder_of_windows_only_stays_as_it_is() -> None:
    encoder = tiny_mobile().image_encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    resize_encoder(encoder, 16)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
