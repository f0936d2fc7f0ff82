"""SAM 2's memory of a slice, made from a mask as it is shown.

- Package: sam2 1.1.0, ``sam2/modeling/sam2_base.py``, ``SAM2Base``.
- Lacks: a public way to encode a memory. ``track_step`` encodes one from the mask at the image's resolution; the
  published video predictor first shows all structures at the resolution of the masks, and encodes a memory from that.
  It can do so for images that it has encoded itself only.
- Done: the private method ``_encode_new_memory`` is called as that predictor calls it.
- Source: https://github.com/facebookresearch/sam2/blob/main/sam2/sam2_video_predictor.py (``_run_memory_encoder``)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def encode_memory(
    network: Any, features: Sequence[Tensor], sizes: Sequence[tuple[int, int]], masks: Tensor, present: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """What the network remembers of a slice with prompts.

    Args:
        network: a ``SAM2Base``.
        features: ``[h * w, K, C]`` of each level, the coarsest last.
        sizes: h and w of each level.
        masks: logits ``[K, 1, size, size]``.
        present: logits ``[K, 1]`` that the structure is on the slice.

    Returns:
        The memory ``[K, C', h, w]`` of the coarsest level, and its position codes.
    """
    memory, places = network._encode_new_memory(
        current_vision_feats=features,
        feat_sizes=sizes,
        pred_masks_high_res=masks,
        object_score_logits=present,
        is_mask_from_pts=True,
    )
    return memory, places
