"""A SAM network at another image size than it was made for."""

from __future__ import annotations

from lib.upstream.sam_size import resize_encoder, resize_prompts

from .networks import SamNetwork


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
    resize_encoder(network.image_encoder, grid)
    resize_prompts(network.prompt_encoder, grid, size)
    network.size = size
    return network
