"""SAM 2 has a private method for what the published predictor makes its memories with."""

from __future__ import annotations

import inspect

import torch

from lib.generalists.sam2video.networks import make
from lib.upstream.sam2_memory import encode_memory


def test_it_has_a_private_method_only() -> None:
    network = make("medsam2", 128)
    assert not [name for name in dir(type(network)) if "encode" in name and not name.startswith("_")]
    assert list(inspect.signature(network._encode_new_memory).parameters) == [
        *("current_vision_feats", "feat_sizes", "pred_masks_high_res", "object_score_logits", "is_mask_from_pts")
    ]


def test_a_memory_tells_what_was_marked_from_what_was_not() -> None:
    network = make("medsam2", 128)
    sizes = [(32, 32), (16, 16), (8, 8)]
    features = [torch.zeros(h * w, 1, 256) for h, w in sizes]
    marked = torch.full((1, 1, 128, 128), -10.0)
    marked[..., :64, :] = 10.0
    present = torch.ones(1, 1)
    with torch.no_grad():
        memory, places = encode_memory(network, features, sizes, marked, present)
        empty, _ = encode_memory(network, features, sizes, torch.full_like(marked, -10.0), present)
    assert memory.shape == places[0].shape == (1, 64, 8, 8)
    assert float((memory - empty)[:, :, :4].abs().mean()) > float((memory - empty)[:, :, 6:].abs().mean())
