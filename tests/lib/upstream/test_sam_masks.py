"""SAM's mask decoder takes one image a call, and gives four masks for each prompt."""

from __future__ import annotations

import pytest
import torch

from lib.upstream.sam_masks import corner_embeddings, first_masks
from sam_parts import SIZE, tiny_vit_b


def test_two_images_are_answered_together_as_the_decoder_answers_them_one_by_one() -> None:
    torch.manual_seed(0)
    network = tiny_vit_b().eval()
    decoder, place = network.mask_decoder, network.prompt_encoder.get_dense_pe()
    features, prompts = torch.randn(2, 32, 4, 4), torch.randn(2, 3, 32)
    dense = torch.randn(2, 32, 4, 4)
    with torch.no_grad():
        found = first_masks(decoder, features + dense, place, prompts)
        assert found.shape == (2, 16, 16)
        for index in range(2):
            one = slice(index, index + 1)
            masks, _ = decoder.predict_masks(features[one], place, prompts[one], dense[one])
            assert masks.shape[1] == 4
            assert torch.allclose(found[one], masks[:, 0], atol=1e-5)
        with pytest.raises(RuntimeError):
            decoder.predict_masks(features, place, prompts, dense)


def test_a_box_is_its_corners_places_and_these_embeddings() -> None:
    torch.manual_seed(0)
    encoder = tiny_vit_b().prompt_encoder
    corners = torch.tensor([[4.0, 6.0], [40.0, 50.0]])
    with torch.no_grad():
        tokens, _ = encoder(points=None, boxes=corners.reshape(1, 4), masks=None)
        places = encoder.pe_layer.forward_with_coords(corners[None] + 0.5, (SIZE, SIZE))
        assert torch.allclose(tokens, places + corner_embeddings(encoder), atol=1e-6)
