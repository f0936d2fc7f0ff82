"""How well two label maps agree: overlap counts and hard Dice, for the log and for a structure that is never found."""

from __future__ import annotations

import torch
from torch import Tensor


def agreement(probabilities: Tensor, target: Tensor, weights: Tensor | None = None) -> float:
    """Mean hard Dice of the structures between two soft labels, 1 when neither holds any.

    Args:
        probabilities: ``[B, C, D, H, W]``; may be logits, as only the largest class counts.
        target: ``[B, C, D, H, W]``.
        weights: ``[B, 1, D, H, W]``; voxels of weight 0 are left out.
    """
    own, held, both = overlap_counts(probabilities, target, weights).double().T
    there = own + held > 0
    return float((2.0 * both / (own + held))[there].mean()) if bool(there.any()) else 1.0


def overlap_counts(probabilities: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Voxels of each structure in one soft label, in another, and in both; arguments as for ``agreement``.

    Returns:
        ``[N, 3]`` integers, on the device of the labels.
    """
    own, other = probabilities.argmax(dim=1), target.argmax(dim=1)
    if weights is not None:
        known = weights[:, 0] > 0
        own, other = own * known, other * known
    rows = []
    for value in range(1, target.shape[1]):  # one at a time: a study may have a hundred structures
        mine, theirs = own == value, other == value
        rows.append(torch.stack([mine.sum(), theirs.sum(), (mine & theirs).sum()]))
    return torch.stack(rows)


def mean_dice(counts: Tensor) -> Tensor:
    """Mean Dice of the structures by their ``overlap_counts``; not a number where the second label holds none."""
    own, held, both = counts.float().T
    total = own + held
    dice = torch.where(total > 0, 2.0 * both / total, torch.nan).nanmean()
    return torch.where(held.sum() > 0, dice, torch.nan)


def holds_structure(target: Tensor, weights: Tensor) -> bool:
    """Whether a soft label ``[B, C, D, H, W]`` holds a structure where its weight ``[B, 1, D, H, W]`` is not 0."""
    return bool(((target.argmax(dim=1, keepdim=True) > 0) & (weights > 0)).any())
