"""The transformer blocks of SAM's image encoder, to put adapters into.

- Package: segment-anything 1.0, ``segment_anything/modeling/image_encoder.py``, ``Block``.
- Lacks: a place for further layers in its blocks.
- Done: what is called ``attn`` and ``mlp`` in a block is found, and replaced by a module with further layers around it.
- Source: https://github.com/facebookresearch/segment-anything/blob/main/segment_anything/modeling/image_encoder.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Around = Callable[[nn.Module, int], nn.Module]
"""Makes a module around another one, given the channels of its features."""


def replace_in_blocks(encoder: nn.Module, attention: Around, perceptron: Around) -> int:
    """Put modules around the attention and the perceptron of each block; changes the encoder.

    Args:
        encoder: SAM's, or Tiny-ViT with the same names.
        attention: around each ``attn``, whose projection is ``proj``.
        perceptron: around each ``mlp``.

    Returns:
        How many blocks there are.
    """
    found = 0
    for block in list(encoder.modules()):
        inner, layers = getattr(block, "attn", None), getattr(block, "mlp", None)
        if isinstance(inner, nn.Module) and isinstance(layers, nn.Module):
            projection = inner.proj
            assert isinstance(projection, nn.Linear)
            with torch.device(projection.weight.device):
                block.attn = attention(inner, projection.out_features)
                block.mlp = perceptron(layers, projection.out_features)
            found += 1
    return found
