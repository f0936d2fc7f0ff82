"""SAM's mask decoder for many images at once, and what it knows of a box's corners.

- Package: segment-anything 1.0, ``segment_anything/modeling``, ``MaskDecoder`` and ``PromptEncoder``.
- Lacks: more than one image a call, and the first mask alone: ``predict_masks`` repeats its one image for all prompts,
  and computes three more masks and a score each time. The embeddings of a box's corners have no name.
- Done: the decoder's parts are called as ``predict_masks`` does, and the weights of the third and fourth of the prompt
  encoder's ``point_embeddings`` are read.
- Source: https://github.com/facebookresearch/segment-anything/blob/main/segment_anything/modeling/mask_decoder.py
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def corner_embeddings(encoder: Any) -> Tensor:
    """``[2, channels]``: what the prompt encoder adds to a box's upper left and lower right corner."""
    return torch.cat([encoder.point_embeddings[2].weight, encoder.point_embeddings[3].weight])


def first_masks(decoder: Any, source: Tensor, place: Tensor, prompts: Tensor) -> Tensor:
    """The masks that SAM gives when it is asked for one.

    Args:
        decoder: a ``MaskDecoder``.
        source: features with the dense prompts added, ``[N, channels, g, g]``.
        place: position codes ``[1, channels, g, g]``.
        prompts: tokens ``[N, T, channels]``.

    Returns:
        Logits ``[N, 4g, 4g]``.
    """
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(prompts), -1, -1)
    answers, seen = decoder.transformer(source, place, torch.cat([tokens, prompts], dim=1))
    fine = decoder.output_upscaling(seen.transpose(1, 2).reshape(source.shape))
    weights = decoder.output_hypernetworks_mlps[0](answers[:, 1])
    return torch.einsum("nc,nchw->nhw", weights, fine)
