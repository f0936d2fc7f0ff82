"""Noise that a prediction should not depend on."""

from __future__ import annotations

import torch
from torch import Tensor


def input_noise(images: Tensor, generator: torch.Generator, deviation: float = 0.1) -> Tensor:
    """``clip(deviation * N(0, 1), -2 deviation, 2 deviation)`` of the shape of ``images``.

    SemiSAM+, https://arxiv.org/abs/2502.20749: what a teacher sees.
    """
    noise = torch.randn(images.shape, generator=generator).mul_(deviation).clamp_(-2 * deviation, 2 * deviation)
    return noise.to(images.device)
