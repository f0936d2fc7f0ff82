"""V-Net: residual stages, learned down- and upsampling.

Milletari et al., "V-Net: Fully convolutional neural networks for volumetric medical image segmentation",
https://arxiv.org/abs/1606.04797, with three changes: convolutions of 3 instead of 5 voxels (a fifth of the work), one
stage a width instead of five fixed ones, and instance normalisation, which keeps no running statistics: small batches
do not disturb it, and the average of two networks' weights is a network.

Not MONAI's: that has 46 million weights whatever ``widths`` says and batch normalisation, takes no three colours, and
needs edges of multiples of 16 voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from typing_extensions import override

from .base import SpecialistNetwork

_MOST_CONVOLUTIONS = 3


class VNet(SpecialistNetwork):
    """A V-Net for windows of any size that ``spec.check_roi`` accepts.

    Args:
        classes: output channels.
        widths: channels of the levels, from full resolution down; each level halves the resolution.
        dropout: share of features dropped at the deepest level and before the head.
        inputs: input channels.
    """

    def __init__(self, classes: int, widths: Sequence[int], dropout: float = 0.1, inputs: int = 1) -> None:
        super().__init__()
        self.width = widths[0]
        counts = [min(level + 1, _MOST_CONVOLUTIONS) for level in range(len(widths))]
        self.enter = nn.Conv3d(inputs, widths[0], kernel_size=3, padding=1)
        self.down = nn.ModuleList([_Stage(w, w, n) for w, n in zip(widths, counts, strict=True)])
        # Convolutions of 3 voxels with a stride of 2 turn an edge of n into ceil(n / 2), one of 1 into 1.
        self.shrink = nn.ModuleList([nn.Conv3d(a, b, kernel_size=3, stride=2, padding=1) for a, b in pairwise(widths)])
        self.grow = nn.ModuleList([nn.ConvTranspose3d(b, a, kernel_size=2, stride=2) for a, b in pairwise(widths)])
        self.up = nn.ModuleList([_Stage(2 * w, w, n) for w, n in zip(widths[:-1], counts[:-1], strict=True)])
        self.drop = nn.Dropout3d(dropout)
        self.head = nn.Conv3d(widths[0], classes, kernel_size=1)

    @override
    def features(self, image: Tensor) -> Tensor:
        values = self.down[0](self.enter(image))
        skips: list[Tensor] = []
        for shrink, stage in zip(self.shrink, self.down[1:], strict=True):
            skips.append(values)
            values = stage(shrink(values))
        values = self.drop(values)
        for grow, stage in zip(reversed(self.grow), reversed(self.up), strict=True):
            skip = skips.pop()
            depth, height, width = skip.shape[2:]
            values = stage(torch.cat([skip, grow(values)[:, :, :depth, :height, :width]], dim=1))
        result: Tensor = values
        return result

    @override
    def classify(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(self.drop(features))
        return result


class _Stage(nn.Module):
    """``count`` convolutions of 3 voxels whose result is added to the input, ``[B, C, ...]`` of any size.

    Where the numbers of channels differ, a convolution of 1 voxel fits the input.
    """

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n in range(count):
            layers += [
                nn.Conv3d(outputs if n else inputs, outputs, 3, padding=1),
                nn.InstanceNorm3d(outputs, affine=True),
            ]
            if n < count - 1:
                layers.append(nn.PReLU(outputs))
        self.body = nn.Sequential(*layers)
        self.fit = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1)
        self.last = nn.PReLU(outputs)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.last(self.body(values) + self.fit(values))
        return result
