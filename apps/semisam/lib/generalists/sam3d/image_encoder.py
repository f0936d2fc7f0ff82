"""The 3D vision transformer that turns a cube of voxels into a coarse grid of features.

Wang et al., "SAM-Med3D: Towards General-purpose Segmentation Models for Volumetric Medical Images", 2023,
https://arxiv.org/abs/2310.15161. It is the encoder of Kirillov et al., "Segment Anything", 2023,
https://arxiv.org/abs/2304.02643, with a third axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import ChannelNorm, TwoLayers


class Attention(nn.Module):
    """Self-attention of all tokens of a cube, with relative positions, optionally inside a larger padded window.

    **Relative positions.** One would expect the bias of query (d, h, w) for key (i, j, k) to be
    ``q(d,h,w)·Rd[d,i] + q(d,h,w)·Rh[h,j] + q(d,h,w)·Rw[w,k]``. The published network has its axes mixed up, and the
    published weights were trained with what it computes, which must stay:
    ``q(d,h,w)·Rd[d,k] + q(d,h,i)·Rh[h,k] + q(d,h,j)·Rw[j,k]``.

    **Padding.** The published network fills the cube of ``grid`` tokens an axis up to a window of ``window`` with
    zeros, after the normalisation, and lets the padding take part as keys. All padded tokens have the same key and
    value (the biases of their projections) and differ in the relative position alone, and what they would compute is
    thrown away. So they are summed up here, exactly, to one key:
    ``log sum_padding exp(q·key + bias) = q·key + log sum_padding exp(bias)``, and that sum is one over k of products of
    sums over i and j. It needs ``grid^3`` queries and ``grid^3 + 1`` keys in place of ``window^3`` of both (512 and
    513 in place of 2744).

    Args:
        width: features of a token.
        heads: attention heads.
        grid: tokens of the cube along each axis.
        window: tokens of the padded window along each axis; ``grid`` for none.
    """

    def __init__(self, width: int, heads: int, grid: int, window: int) -> None:
        super().__init__()
        if window < grid:
            raise ValueError(f"a window of {window} tokens is smaller than the grid of {grid}")
        self.heads, self.grid, self.window = heads, grid, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_d = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window - 1, width // heads))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, g, g, g, width]`` to the same shape."""
        g, count = self.grid, tokens.shape[0]
        qkv = self.qkv(tokens).reshape(count, g**3, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        # What the projections make of the zeros of the padding, [1, heads, 1, c] each.
        q_zero, k_zero, v_zero = self.qkv.bias.to(query.dtype).reshape(3, 1, self.heads, 1, -1).unbind(0)
        for_d, for_h, for_w = self._relative(query.reshape(count, self.heads, g, g, g, -1), q_zero)
        bias = for_d[..., None, None, :g] + for_h[..., None, :g, None, :g] + for_w[..., None, None, :g, :g]
        bias = bias.reshape(count, self.heads, g**3, g**3)
        if self.window > g:
            key = torch.cat([key, k_zero.expand(count, -1, -1, -1)], 2)
            value = torch.cat([value, v_zero.expand(count, -1, -1, -1)], 2)
            padding = self._padding(for_d, for_h, for_w).reshape(count, self.heads, g**3, 1)
            bias = torch.cat([bias, padding], 3)
        mixed = functional.scaled_dot_product_attention(query, key, value, bias.to(query.dtype))
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(tokens.shape))
        return out

    def _relative(self, query: Tensor, q_zero: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three parts of the bias, for all keys of the window.

        Args:
            query: ``[B, heads, g, g, g, c]``.
            q_zero: query of a padded token, ``[1, heads, 1, c]``.

        Returns:
            By (d, h, w, k) ``[B, heads, g, g, g, window]``; by (d, h, i, k) and by (d, h, j, k), each
            ``[B, heads, g, g, window, window]``.
        """
        g, size = self.grid, self.window
        steps = torch.arange(size, device=query.device)
        steps = steps[:, None] - steps + size - 1  # the table's row for query n and key m along one axis
        d, h, w = (table.to(query.dtype)[steps] for table in (self.rel_pos_d, self.rel_pos_h, self.rel_pos_w))
        filling = q_zero[:, :, None, None].expand(len(query), -1, g, g, size - g, -1)
        padded = torch.cat([query, filling], 4)
        return (
            torch.einsum("bndhwc,dkc->bndhwk", query, d[:g]).float(),
            torch.einsum("bndhic,hkc->bndhik", padded, h[:g]).float(),
            torch.einsum("bndhjc,jkc->bndhjk", padded, w).float(),
        )

    def _padding(self, for_d: Tensor, for_h: Tensor, for_w: Tensor) -> Tensor:
        """Logarithm of the sum over all padded keys of the exponential of their bias: ``[B, heads, g, g, g]``."""
        g = self.grid
        i_inside, i_outside, i_all = (
            for_h[..., :g, :].logsumexp(-2),
            for_h[..., g:, :].logsumexp(-2),
            for_h.logsumexp(-2),
        )
        j_outside, j_all = for_w[..., g:, :].logsumexp(-2), for_w.logsumexp(-2)
        # For k inside the cube, i or j must be outside; for k outside, they may be anything.
        both = torch.logaddexp(i_outside + j_all, i_inside + j_outside)
        places = torch.cat([both[..., :g], (i_all + j_all)[..., g:]], -1)
        return (for_d + places[..., None, :]).logsumexp(-1)


class Block(nn.Module):
    """Attention and feed-forward part, each with normalisation before and a short cut around."""

    def __init__(self, width: int, heads: int, grid: int, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, grid, window)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = TwoLayers(width, 4 * width, nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, g, g, g, width]`` to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class Patches(nn.Module):
    """Cuts the cube into patches and projects each to a token."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, 1, D, H, W]`` to ``[B, d, h, w, width]``."""
        out: Tensor = self.proj(image).movedim(1, -1)
        return out


class ImageEncoder(nn.Module):
    """Patches, absolute positions, transformer blocks, and a neck of two convolutions.

    Args:
        image: voxels of the cube along each axis.
        patch: voxels of a patch along each axis.
        width: features of a token.
        depth: number of blocks.
        heads: attention heads.
        global_blocks: blocks without padded window.
        window: tokens along an axis of the padded window of the other blocks; not less than ``image / patch``.
        channels: features that come out.
    """

    def __init__(
        self,
        *,
        image: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        global_blocks: tuple[int, ...],
        window: int,
        channels: int,
    ) -> None:
        super().__init__()
        grid = image // patch
        self.patch_embed = Patches(patch, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, grid, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, grid, grid if n in global_blocks else window) for n in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv3d(width, channels, 1, bias=False),
            ChannelNorm(channels),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            ChannelNorm(channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        """``[B, 1, image, image, image]`` to ``[B, channels, g, g, g]``."""
        tokens = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.neck(tokens.movedim(-1, 1))
        return out
