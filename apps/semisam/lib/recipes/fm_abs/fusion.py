"""What three views agree on.

FM-ABS (MICCAI 2024, section 2.2): majority voting takes the most frequent label, unanimous agreement only what all
views say. Where there is no agreement, nothing is learned.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Fusion = Literal["majority", "unanimous"]
NOBODY = 255
"""Stands for "no agreement" in a fused label map."""

_NEEDED = {"majority": 2, "unanimous": 3}


def fuse(views: Tensor, fusion: Fusion) -> Tensor:
    """Fuse the label maps of three views.

    Args:
        views: ``[3, D, H, W]`` uint8 voxel values, 0 is background.
        fusion: two of three, or all three must agree.

    Returns:
        ``[D, H, W]`` uint8: what was agreed on, ``NOBODY`` elsewhere.
    """
    agreed = torch.full_like(views[0], NOBODY)
    for value in torch.unique(views).tolist():
        agreed[(views == value).sum(0) >= _NEEDED[fusion]] = value
    return agreed
