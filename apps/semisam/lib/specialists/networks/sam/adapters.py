"""Small trainable parts in a frozen transformer.

Wu et al., "Medical SAM Adapter", Medical Image Analysis 2025, https://arxiv.org/abs/2304.12620, which SC-SAM builds on:
one adapter behind the attention of each block, one beside its perceptron.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lib.upstream.sam_blocks import replace_in_blocks

REDUCTION = 4
"""An adapter is so many times narrower than what it adapts."""
BESIDE = 0.5
"""Weight of the adapter beside a perceptron."""


class Adapter(nn.Module):
    """Linear, GELU, linear. Its last layer starts at zero, so that at first it adds nothing.

    Args:
        channels: of what it adapts.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // REDUCTION)
        self.down = nn.Linear(channels, narrow)
        self.up = nn.Linear(narrow, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., channels]`` to what is to be added, of the same shape."""
        result: Tensor = self.up(functional.gelu(self.down(x)))
        return result


class AdaptedAttention(nn.Module):
    """``a + adapter(a)`` with the attention's answer a."""

    def __init__(self, inner: nn.Module, channels: int) -> None:
        super().__init__()
        self.inner = inner
        self.adapter = Adapter(channels)

    def forward(self, x: Tensor) -> Tensor:
        """As the attention."""
        mixed: Tensor = self.inner(x)
        result: Tensor = mixed + self.adapter(mixed)
        return result


class AdaptedPerceptron(nn.Module):
    """``mlp(x) + 0.5 adapter(x)``."""

    def __init__(self, inner: nn.Module, channels: int) -> None:
        super().__init__()
        self.inner = inner
        self.adapter = Adapter(channels)

    def forward(self, x: Tensor) -> Tensor:
        """As the perceptron."""
        result: Tensor = self.inner(x) + BESIDE * self.adapter(x)
        return result


def add_adapters(encoder: nn.Module) -> None:
    """Freeze an image encoder and put trainable adapters into its transformer blocks; changes it.

    A block is what has an attention ``attn`` (with a projection ``proj``) and a perceptron ``mlp``: those of SAM's ViT
    and of Tiny-ViT. Every module of the encoder goes on predicting (``eval``) as before.
    """
    encoder.requires_grad_(False)
    if not replace_in_blocks(encoder, AdaptedAttention, AdaptedPerceptron):
        raise ValueError("there are no transformer blocks to adapt")
