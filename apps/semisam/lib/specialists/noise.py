"""Noise added to a network's input, under which its prediction should stay the same."""

from __future__ import annotations

import torch
from torch import Tensor


def normal_like(values: Tensor, generator: torch.Generator) -> Tensor:
    """Normally distributed values of the shape of ``values``, float32, on their device.

    Args:
        values: gives shape and device.
        generator: source of the random numbers (CPU). It gives one seed only: millions of numbers a step would keep a
            GPU waiting, and what is drawn next must be the same on every device.
    """
    seed = int(torch.randint(2**62, (1,), generator=generator))
    own = torch.Generator(values.device).manual_seed(seed)
    return torch.randn(values.shape, generator=own, device=values.device)


def input_noise(images: Tensor, generator: torch.Generator, deviation: float = 0.1) -> Tensor:
    """``clip(deviation * N(0, 1), -2 deviation, 2 deviation)`` of the shape of ``images``, see ``normal_like``.

    SemiSAM+, https://arxiv.org/abs/2502.20749: what a teacher sees.
    """
    return normal_like(images, generator).mul_(deviation).clamp_(-2 * deviation, 2 * deviation)
