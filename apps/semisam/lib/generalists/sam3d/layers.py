"""Small layers that the parts of the 3D network share."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of ``[B, C, D, H, W]``, voxel by voxel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise ``[B, C, D, H, W]``; the shape stays."""
        turned = values.movedim(1, -1)
        return functional.layer_norm(turned, self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class TwoLayers(nn.Module):
    """Widen, bend, narrow: the feed-forward part of a transformer block."""

    def __init__(self, width: int, hidden: int, bend: nn.Module) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)
        self.bend = bend

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., width]`` to ``[..., width]``."""
        out: Tensor = self.lin2(self.bend(self.lin1(tokens)))
        return out


class Head(nn.Module):
    """A stack of linear layers with ReLU between them."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., sizes[0]]`` to ``[..., sizes[-1]]``."""
        for layer in self.layers[:-1]:
            tokens = functional.relu(layer(tokens))
        out: Tensor = self.layers[-1](tokens)
        return out
