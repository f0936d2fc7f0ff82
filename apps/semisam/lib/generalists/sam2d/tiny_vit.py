"""Tiny-ViT, the image encoder of MobileSAM and LiteMedSAM.

Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022,
https://arxiv.org/abs/2207.10666; Zhang et al., "Faster Segment Anything", 2023, https://arxiv.org/abs/2306.14289
(stage 4 keeps the resolution, and SAM's neck follows). The names of all parts are those of the published checkpoints;
MobileSAM's has a classifier (``norm_head``, ``head``), which is not used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling.common import LayerNorm2d  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional


def _only_forwards(x: Tensor) -> bool:
    """Whether a CPU computes this, and no gradients: then the same numbers can be had in less time."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation; both as one convolution where only answers are wanted."""

    def __init__(self, inner: int, outer: int, width: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inner, outer, width, stride, width // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inner, h, w]`` to ``[B, outer, h / stride, w / stride]``."""
        if _only_forwards(x) and not self.training:
            weight, bias = self._joined()
            weight = weight.contiguous(memory_format=torch.channels_last)  # as the images lie
            return functional.conv2d(x, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)
        result: Tensor = self.bn(self.c(x))
        return result

    def _joined(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that does both; worked out anew each time, as the parts may change."""
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None
        assert variance is not None
        factor = self.bn.weight / (variance + self.bn.eps).sqrt()
        return self.c.weight * factor[:, None, None, None], self.bn.bias - mean * factor


class PatchEmbed(nn.Module):
    """Two convolutions, each coarser by ``stride``."""

    def __init__(self, inner: int, outer: int, width: int = 3, stride: int = 2) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(inner, outer // 2, width, stride), nn.GELU(), ConvNorm(outer // 2, outer, width, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inner, h, w]`` to ``[B, outer, h / stride**2, w / stride**2]``."""
        result: Tensor = self.seq(x)
        return result


class InvertedBottleneck(nn.Module):
    """MBConv: widen, convolve each channel, narrow, add."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv1 = ConvNorm(channels, wide)
        self.conv2 = ConvNorm(wide, wide, 3, groups=wide)
        self.conv3 = ConvNorm(wide, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` to the same shape."""
        y = functional.gelu(self.conv1(x))
        y = functional.gelu(self.conv2(y))
        return functional.gelu(self.conv3(y) + x)


class PatchMerging(nn.Module):
    """From one stage's width to the next one's, by ``stride`` coarser."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inner, outer)
        self.conv2 = ConvNorm(outer, outer, 3, stride, groups=outer)
        self.conv3 = ConvNorm(outer, outer)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inner, h, w]`` to ``[B, outer, h / stride, w / stride]``."""
        y = functional.gelu(self.conv1(x))
        y = functional.gelu(self.conv2(y))
        result: Tensor = self.conv3(y)
        return result


class WindowAttention(nn.Module):
    """Attention among the places of a window, with a learnt bias for each distance in rows and columns."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        # Always on a real device: it is no part of a checkpoint, so a network built on "meta" would never get it.
        at = torch.cartesian_prod(torch.arange(window, device="cpu"), torch.arange(window, device="cpu"))
        apart = (at[:, None] - at[None]).abs()
        self.distances: Tensor
        self.register_buffer("distances", apart[..., 0] * window + apart[..., 1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, window**2, C]`` to the same shape."""
        batch, places, channels = x.shape
        # Each head's query, key and value lie next to each other.
        parts = self.qkv(self.norm(x)).view(batch, places, self.heads, 3, -1)
        query, key, value = parts.permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, self.distances].to(query.dtype)
        if _only_forwards(x):
            # PyTorch's function looks for rows that are masked wholly on a CPU; here there are none.
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            mixed = scores.add_(bias).softmax(dim=-1) @ value
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        result: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, places, channels))
        return result


class Perceptron(nn.Module):
    """Normalise, widen fourfold, narrow."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, channels * expansion)
        self.fc2 = nn.Linear(channels * expansion, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to the same shape."""
        result: Tensor = self.fc2(functional.gelu(self.fc1(self.norm(x))))
        return result


class AttentionBlock(nn.Module):
    """Window attention, a convolution of each channel, a perceptron."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window)
        self.local_conv = ConvNorm(channels, channels, 3, groups=channels)
        self.mlp = Perceptron(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` to the same shape."""
        x = x + self._attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x)
        result: Tensor = x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return result

    def _attend(self, x: Tensor) -> Tensor:
        batch, high, wide, channels = x.shape
        side = self.window
        # Zeros fill the last windows and take part in the attention: the checkpoint was trained so.
        x = functional.pad(x, (0, 0, 0, -wide % side, 0, -high % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        windows = x.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        mixed = self.attn(windows.reshape(-1, side * side, channels))
        whole = mixed.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        result: Tensor = whole.reshape(x.shape)[:, :high, :wide]
        return result


class Stage(nn.Module):
    """Blocks of one width, and the passage to the next width."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` to ``[B, C', h', w']``."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """The encoder; without arguments it is that of MobileSAM.

    Args:
        channels: width of the four stages.
        depths: blocks a stage.
        heads: attention heads a stage; the first stage has no attention.
        windows: side of the attention windows.
        strides: of the passages between the stages.
        outer: channels of the features.
        embedding: width and stride of the two convolutions in front.
        classifier: whether there is one, as in MobileSAM's checkpoint.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (2, 4, 5, 10),
        windows: Sequence[int] = (7, 7, 14, 7),
        strides: Sequence[int] = (2, 2, 1),
        outer: int = 256,
        *,
        embedding: tuple[int, int] = (3, 2),
        classifier: bool = True,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(3, channels[0], *embedding)
        self.layers = nn.ModuleList()
        for n, width in enumerate(channels):
            blocks = [
                AttentionBlock(width, heads[n], windows[n]) if n else InvertedBottleneck(width)
                for _ in range(depths[n])
            ]
            last = n + 1 == len(channels)
            self.layers.append(Stage(blocks, None if last else PatchMerging(width, channels[n + 1], strides[n])))
        if classifier:
            self.norm_head = nn.LayerNorm(channels[-1])
            self.head = nn.Linear(channels[-1], 1000)
        self.neck = nn.Sequential(
            nn.Conv2d(channels[-1], outer, 1, bias=False),
            LayerNorm2d(outer),
            nn.Conv2d(outer, outer, 3, padding=1, bias=False),
            LayerNorm2d(outer),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, h, w]`` to ``[B, outer, h / 16, w / 16]`` (with the default strides)."""
        if _only_forwards(x):
            # Then the blocks, which need a place's channels side by side, copy nothing, and convolutions are faster.
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        result: Tensor = self.neck(x)
        return result
