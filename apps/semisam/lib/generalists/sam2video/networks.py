"""The networks, built by PyPI's ``sam2`` package.

Ravi et al., "SAM 2: Segment Anything in Images and Videos", https://arxiv.org/abs/2408.00714
Ma et al., "MedSAM2: Segment Anything in 3D Medical Images and Videos", https://arxiv.org/abs/2504.03600: SAM 2.1 tiny
for images of 512 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib.generalists.states import random_like
from lib.upstream.sam2_config import description
from lib.upstream.sam2_tables import move_tables

STRIDE = 16
"""Pixels of the image to one feature."""


@dataclass(frozen=True)
class Layout:
    """What tells one network from another.

    Args:
        config: file of the package that describes it, without ``.yaml``.
        size: side of the square image.
    """

    config: str
    size: int


LAYOUTS = {
    "sam2_tiny": Layout("sam2.1_hiera_t", 1024),
    "sam2_small": Layout("sam2.1_hiera_s", 1024),
    "sam2_base_plus": Layout("sam2.1_hiera_b+", 1024),
    "sam2_large": Layout("sam2.1_hiera_l", 1024),
    "medsam2": Layout("sam2.1_hiera_t", 512),
}
"""By the generalist's name. The published files of all are SAM 2.1, whose configurations do not fit SAM 2.0's files."""


def make(name: str, size: int | None = None) -> Any:
    """The network of the generalist ``name`` (a ``SAM2Base``), with weights that mean nothing, on the CPU.

    Args:
        name: key of ``LAYOUTS``.
        size: side of the image, a multiple of 64, if not the published one. The weights' shapes do not depend on it.
    """
    # Here, not at the top: only who asks for one of these models needs it.
    from hydra.utils import instantiate

    layout = LAYOUTS[name]
    model = description(layout.config).model
    pixels = size or layout.size
    model.image_size = pixels
    for attention in ("self_attention", "cross_attention"):
        model.memory_attention.layer[attention].feat_sizes = [pixels // STRIDE] * 2
    # As the package's builder of video predictors does.
    model.binarize_mask_from_pts_for_mem_enc = True
    model.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    return instantiate(model).eval().requires_grad_(False)


def place(network: nn.Module, device: torch.device) -> None:
    """Move a network to ``device``."""
    network.to(device)
    move_tables(network, device)


def random_state(name: str, seed: int) -> dict[str, Tensor]:
    """Random weights of the true architecture, of a size that keeps activations in range, for tests without the file.

    Args:
        name: of the model; its letters are part of the seed, so that two models differ.
        seed: same seed, same weights.
    """
    state = random_like({key: value.shape for key, value in make(name).state_dict().items()}, name, seed)
    # Or the network finds that what is looked for is not there, slice by slice at random.
    state["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 10
    return state
