"""Windows as batches of slices, for networks that see one slice at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def fold_slices(windows: Tensor, axis: int) -> Tensor:
    """Slices of ``[B, C, D, H, W]`` across ``axis`` (0, 1 or 2 of D, H, W) as a batch ``[B * slices, C, h, w]``.

    The two axes that are left keep their order.
    """
    slices = windows.movedim(axis + 2, 1).flatten(0, 1)
    return slices.contiguous(memory_format=torch.channels_last)


def unfold_slices(slices: Tensor, axis: int, batch: int) -> Tensor:
    """The reverse of ``fold_slices``: ``[batch * slices, C, h, w]`` to ``[batch, C, D, H, W]``."""
    result: Tensor = slices.unflatten(0, (batch, -1)).movedim(1, axis + 2)
    return result
