"""What a session takes of its prompts, what it refuses, and what a box means for its answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.core.errors import UserError

from .base import Prompts


def check_prompts(prompts: Prompts, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Look at the prompts for a scan of ``shape``.

    Returns:
        Clicks ``[P, 3]`` float32, which are positive ``[P]``, and the mask ``[D, H, W]`` in 0..1 if it marks anything.

    Raises:
        UserError: when nothing is said, or something lies outside the scan.
    """
    points = prompts.points.detach().to("cpu", torch.float32).reshape(-1, 3)
    positive = prompts.positive.detach().cpu().bool().reshape(-1)
    limits = torch.tensor(shape)
    if not bool(((points >= -0.5) & (points <= limits - 0.5)).all()):  # also when a coordinate is no number
        raise UserError(f"A click lies outside the scan, which has {_sizes(shape)} voxels. Click inside it.")
    mask = None
    if prompts.mask is not None:
        if tuple(prompts.mask.shape) != tuple(shape):
            raise UserError(
                f"The mask has {_sizes(prompts.mask.shape)} voxels and the scan {_sizes(shape)}. "
                "Give a mask of the same scan."
            )
        mask = prompts.mask.detach().to("cpu", torch.float32).clamp(0, 1)
        mask = mask if bool((mask >= 0.5).any()) else None
    if prompts.box is not None:
        box = prompts.box.detach().cpu()
        if bool((box[0] > box[1]).any() or (box < 0).any() or (box > limits - 1).any()):
            raise UserError(f"The box does not lie inside the scan, which has {_sizes(shape)} voxels. Draw it anew.")
    if not len(points) and mask is None and prompts.box is None:
        raise UserError("There is nothing to go by. Click inside the structure.")
    return points, positive, mask


def within_box(answer: Tensor, box: Tensor) -> Tensor:
    """Nothing outside a box ``[2, 3]``."""
    first, last = box.detach().cpu().float().round().int().tolist()
    inside = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    kept = torch.zeros_like(answer)
    kept[inside] = answer[inside]
    return kept


def _sizes(shape: Sequence[int]) -> str:
    return " × ".join(str(n) for n in shape)
