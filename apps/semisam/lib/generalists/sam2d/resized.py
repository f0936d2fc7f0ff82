"""A SAM network at another image size than it was made for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .networks import SamNetwork


@torch.no_grad()
def resize_network(network: SamNetwork, size: int) -> SamNetwork:
    """Let a network look at images of ``size`` x ``size`` pixels; changes it and returns it.

    What belongs to the whole image is resized: the position embeddings and, in blocks that attend to the whole image,
    the biases of relative positions. Windows keep theirs: they are as large as before. Tiny-ViT has windows only.

    Args:
        network: with its weights, on any image size.
        size: a multiple of ``network.patch``.
    """
    if size < network.patch or size % network.patch:
        raise ValueError(f"the size must be a multiple of {network.patch}, not {size}")
    grid = size // network.patch
    encoder = network.image_encoder
    table = getattr(encoder, "pos_embed", None)
    if isinstance(table, Tensor):
        moved = functional.interpolate(
            table.permute(0, 3, 1, 2), size=(grid, grid), mode="bicubic", align_corners=False, antialias=True
        )
        encoder.pos_embed = _like(table, moved.permute(0, 2, 3, 1))
    for block in getattr(encoder, "blocks", ()):
        if block.window_size == 0 and block.attn.use_rel_pos:
            block.attn.rel_pos_h = _stretched(block.attn.rel_pos_h, 2 * grid - 1)
            block.attn.rel_pos_w = _stretched(block.attn.rel_pos_w, 2 * grid - 1)
    network.size = size
    network.prompt_encoder.image_embedding_size = (grid, grid)
    network.prompt_encoder.input_image_size = (size, size)
    return network


def _stretched(biases: nn.Parameter, length: int) -> nn.Parameter:
    """Biases ``[distances, channels]`` for ``length`` distances over the same range."""
    return _like(biases, functional.interpolate(biases.T[None], size=length, mode="linear")[0].T)


def _like(old: Tensor, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=old.requires_grad)
