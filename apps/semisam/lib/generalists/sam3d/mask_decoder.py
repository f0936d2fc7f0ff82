"""From features and prompts to mask logits, in the 3D network.

The two-way transformer of Kirillov et al., "Segment Anything", 2023, https://arxiv.org/abs/2304.02643, appendix A.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import ChannelNorm, Head, TwoLayers


class CrossAttention(nn.Module):
    """Attention between two sets of tokens, in fewer features inside when asked to."""

    def __init__(self, width: int, heads: int, shrink: int = 1) -> None:
        super().__init__()
        inner = width // shrink
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``[B, Q, width]`` asks ``[B, K, width]``: ``[B, Q, width]``."""
        q, k, v = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, tokens in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        out: Tensor = self.out_proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class TwoWayBlock(nn.Module):
    """Tokens look at themselves, then at the image, think, and the image looks at the tokens."""

    def __init__(self, width: int, heads: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = CrossAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = CrossAttention(width, heads, 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = TwoLayers(width, hidden, nn.ReLU())
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = CrossAttention(width, heads, 2)

    def forward(self, tokens: Tensor, image: Tensor, start: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Exchange between tokens ``[B, T, C]`` and image ``[B, N, C]``.

        Args:
            tokens: prompt and output tokens.
            image: features of the places.
            start: the tokens before the first block; they serve as the tokens' positions.
            places: positions of the image's features ``[1, N, C]``.
        """
        if self.first:
            # The tokens are still their own positions: nothing is added, and nothing goes around the attention.
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + start
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + start, image + places, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image + places, tokens + start, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two blocks, and a last look of the tokens at the image."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, heads, hidden, first=n == 0) for n in range(2))
        self.final_attn_token_to_image = CrossAttention(width, heads, 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, start: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, T, C]``, image ``[B, N, C]`` and its positions ``[1, N, C]`` to tokens and image."""
        tokens = start
        for layer in self.layers:
            tokens, image = layer(tokens, image, start, places)
        tokens = tokens + self.final_attn_token_to_image(tokens + start, image + places, image)
        return self.norm_final_attn(tokens), image


class MaskDecoder(nn.Module):
    """Predicts the mask (token 0) and three alternatives (tokens 1 to 3, unused here), and how good they are.

    Args:
        channels: features of the image encoder.
        heads: attention heads.
        hidden: hidden features of the transformer's feed-forward parts.
        judge: hidden features of the head that predicts the quality.
    """

    def __init__(self, *, channels: int, heads: int, hidden: int, judge: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(channels, heads, hidden)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(4, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(channels, channels // 4, 2, stride=2),
            ChannelNorm(channels // 4),
            nn.GELU(),
            nn.ConvTranspose3d(channels // 4, channels // 8, 2, stride=2),
            nn.GELU(),
        )
        sizes = (channels, channels, channels, channels // 8)
        self.output_hypernetworks_mlps = nn.ModuleList(Head(sizes) for _ in range(4))
        self.iou_prediction_head = Head((channels, judge, judge, 4))

    def forward(self, features: Tensor, places: Tensor, tokens: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Answer to prompts.

        Args:
            features: of the image encoder, ``[B, C, g, g, g]``.
            places: positions of the grid, ``[1, C, g, g, g]``.
            tokens: of the prompts, ``[B, T, C]``.
            dense: of the mask so far, ``[B, C, g, g, g]`` or ``[1, ...]``.

        Returns:
            Mask logits ``[B, 1, 4 g, 4 g, 4 g]`` and the predicted intersection over union ``[B, 1]``.
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(features), -1, -1), tokens.expand(len(features), -1, -1)], 1)
        image = (features + dense).flatten(2).transpose(1, 2)
        tokens, image = self.transformer(tokens, image, places.flatten(2).transpose(1, 2))
        upscaled = self.output_upscaling(image.transpose(1, 2).reshape(features.shape))
        weights = self.output_hypernetworks_mlps[0](tokens[:, 1])
        logits = torch.einsum("bc,bcdhw->bdhw", weights, upscaled)[:, None]
        return logits, self.iou_prediction_head(tokens[:, 0])[:, :1]
