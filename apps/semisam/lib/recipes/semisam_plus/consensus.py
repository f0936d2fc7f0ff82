"""What several answers agree on.

SemiSAM+ (https://arxiv.org/abs/2502.20749): Eq. 11 takes the uncertainty of a generalist from its answers to different
prompts, and Eq. 5 keeps the voxels below a threshold. (The released code weighs unsure voxels more.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

UNSURE = 1.0
"""Uncertainty of a voxel about which nothing is known; no threshold lets it through."""


def consensus(answers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean answer and its uncertainty, Eq. 11 with the standard deviation as discrepancy.

    Args:
        answers: to different prompts, each ``[1 + N, D, H, W]``, sum 1.

    Returns:
        The mean ``[1 + N, D, H, W]``, and ``[D, H, W]`` in 0..1: twice the largest standard deviation of a class, 0
        where all answers are alike and 1 where half of them say yes and half say no.
    """
    stacked = torch.stack(list(answers))
    deviation = stacked.std(dim=0, correction=0)
    return stacked.mean(dim=0), (2.0 * deviation.amax(dim=0)).clamp(0.0, 1.0)


def keep_sizes(answer: Tensor, sizes: Tensor, steps: int = 5) -> Tensor:
    """Weigh the classes such that each takes as many voxels as before; only the borders between them have moved.

    Features tell where a structure ends, but not how large it is. When a specialist learns from answers to its own
    predictions, one structure would grow at the other's cost from question to question.

    Args:
        answer: ``[1 + N, D, H, W]``, sum 1.
        sizes: ``[1 + N]``, voxels that each class took.
        steps: of iterative proportional fitting.

    Returns:
        ``[1 + N, D, H, W]``, sum 1.
    """
    for _ in range(steps):
        answer = answer * (sizes / answer.flatten(1).sum(dim=1).clamp_min(1e-6)).view(-1, 1, 1, 1)
        answer = answer / answer.sum(dim=0).clamp_min(1e-6)
    return answer


def confident(uncertainty: Tensor, threshold: float) -> Tensor:
    """Eq. 5, ``M = I(U < threshold)``: ``[B, 1, D, H, W]`` to float of the same shape."""
    return (uncertainty < threshold).float()
