"""SAM's image encoder and prompt encoder for images of another size.

- Package: segment-anything 1.0, ``segment_anything/modeling``, ``ImageEncoderViT`` and ``PromptEncoder``.
- Lacks: a size other than that of its construction; weights of another size do not load.
- Done: position embeddings and relative positions are resized in place, and the sizes that the prompt encoder notes
  are set.
- Source: https://github.com/facebookresearch/segment-anything/blob/main/segment_anything/modeling/image_encoder.py
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@torch.no_grad()
def resize_encoder(encoder: nn.Module, grid: int) -> None:
    """Resize what belongs to the whole image; an encoder that has windows only (Tiny-ViT) stays as it is.

    Args:
        encoder: with its weights, for any image size.
        grid: features along a side of the new images.
    """
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


def resize_prompts(encoder: Any, grid: int, size: int) -> None:
    """Let a prompt encoder take places on images of ``size`` pixels a side, with ``grid`` features a side."""
    encoder.image_embedding_size = (grid, grid)
    encoder.input_image_size = (size, size)


def _stretched(biases: nn.Parameter, length: int) -> nn.Parameter:
    """Biases ``[distances, channels]`` for ``length`` distances over the same range."""
    return _like(biases, functional.interpolate(biases.T[None], size=length, mode="linear")[0].T)


def _like(old: Tensor, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=old.requires_grad)
