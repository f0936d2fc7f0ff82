"""Clicks and the mask so far, as tokens and as a grid of features, in the 3D network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layers import ChannelNorm


class Positions(nn.Module):
    """Random Fourier features of places in 0..1.

    Three axes give ``3 * frequencies`` features where two gave ``2 * frequencies``: sine, cosine, and sine again.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, channels // 3))

    def forward(self, places: Tensor) -> Tensor:
        """``[..., 3]`` in 0..1 to ``[..., channels]``."""
        angles = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos(), angles.sin()], -1)


class PromptEncoder(nn.Module):
    """Encodes clicks and a mask. There are no box embeddings: the model has never seen boxes.

    Args:
        channels: features of the image encoder.
        grid: its output grid along each axis.
        image: its input voxels along each axis.
    """

    def __init__(self, *, channels: int, grid: int, image: int) -> None:
        super().__init__()
        self.grid, self.image = grid, image
        self.pe_layer = Positions(channels)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(2))
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.no_mask_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, 4, 2, stride=2),
            ChannelNorm(4),
            nn.GELU(),
            nn.Conv3d(4, 16, 2, stride=2),
            ChannelNorm(16),
            nn.GELU(),
            nn.Conv3d(16, channels, 1),
        )

    def grid_positions(self) -> Tensor:
        """Positions of the feature grid: ``[1, channels, g, g, g]``.

        The first two axes are swapped against the clicks' (the entry at i, j, k is that of the place j, i, k). The
        published weights were trained so, and need it.
        """
        steps = (torch.arange(self.grid, device=self.no_mask_embed.weight.device) + 0.5) / self.grid
        i, j, k = torch.meshgrid(steps, steps, steps, indexing="ij")
        out: Tensor = self.pe_layer(torch.stack([j, i, k], -1)).movedim(-1, 0)[None]
        return out

    def forward(self, points: Tensor | None, positive: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encode prompts.

        Args:
            points: clicks ``[B, P, 3]`` in voxels of the cube, voxel centres at whole numbers, or None.
            positive: ``[B, P]``, true or 1 for inside.
            mask: logits ``[B, 1, 4 g, 4 g, 4 g]``, or None.

        Returns:
            Tokens ``[B, P + 1, channels]`` (no token without clicks) and a grid ``[B, channels, g, g, g]`` (or
            ``[1, ...]``, the same for all, without a mask).
        """
        if mask is None:
            dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1, 1).expand(-1, -1, *[self.grid] * 3)
        else:
            dense = self.mask_downscaling(mask)
        if points is None or positive is None:
            return dense.new_zeros(dense.shape[0], 0, dense.shape[1]), dense
        outside, inside = (embedding.get_parameter("weight") for embedding in self.point_embeddings)
        tokens = self.pe_layer((points.float() + 0.5) / self.image)
        tokens = tokens + torch.where(positive[..., None].bool(), inside, outside)
        # Clicks without a box are followed by one token that says: nothing more.
        end = self.not_a_point_embed.weight.expand(len(tokens), 1, -1)
        return torch.cat([tokens, end], 1), dense
