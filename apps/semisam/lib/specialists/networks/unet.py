"""The U-Net of SemiSAM+ in two or three dimensions.

Zhang et al., "SemiSAM+: Rethinking semi-supervised medical image segmentation in the era of foundation models",
https://arxiv.org/abs/2502.20749 (their specialist: two convolutions with instance normalisation a level, trilinear
upsampling, dropout at the deepest level and before the head).

Not MONAI's BasicUNet: that gives no features before its head, on which regularisers put heads of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Dropout, Pool
from torch import Tensor, nn
from typing_extensions import override

from .base import SpecialistNetwork
from .upsample import upsample


class UNet(SpecialistNetwork):
    """A U-Net for images of any size that leaves two values at its deepest level.

    Args:
        dims: 2 or 3.
        classes: output channels.
        widths: channels of the levels, from full resolution down; each level halves the resolution.
        dropout: share of features dropped at the deepest level and before the head.
        inputs: input channels.
    """

    def __init__(self, dims: int, classes: int, widths: Sequence[int], dropout: float, inputs: int) -> None:
        super().__init__()
        self.width = widths[0]
        self.down = nn.ModuleList([_level(dims, a, b) for a, b in zip([inputs, *widths[:-1]], widths, strict=True)])
        self.up = nn.ModuleList([_level(dims, a + b, a) for a, b in pairwise(widths)])
        self.drop = Dropout[Dropout.DROPOUT, dims](dropout)
        self.head = Conv[Conv.CONV, dims](widths[0], classes, kernel_size=1)
        # ceil_mode: an edge of one voxel stays one, and the last voxel of an odd edge is not lost.
        self.shrink = Pool[Pool.MAX, dims](2, ceil_mode=True)
        self.apply(_initialise)

    @override
    def features(self, image: Tensor) -> Tensor:
        skips: list[Tensor] = []
        values = image
        for depth, level in enumerate(self.down):
            values = level(self.shrink(values) if depth else values)
            # Instance normalisation gives the layout up. Without it pooling, upsampling and the next convolution are
            # slow on a CPU: all in all by a third in predictions, by a sixth in trainings.
            values = values.contiguous(memory_format=self.layout)
            skips.append(values)
        values = self.drop(skips.pop())
        for level in reversed(self.up):
            skip = skips.pop()
            values = upsample(values, skip.shape[2:])
            values = level(torch.cat([skip, values.to(skip.dtype)], dim=1)).contiguous(memory_format=self.layout)
        result: Tensor = values
        return result

    @override
    def classify(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(self.drop(features))
        return result


def _initialise(module: nn.Module) -> None:
    """Random weights as wide as He et al., https://arxiv.org/abs/1502.01852, derive for ReLU.

    PyTorch's own are less than half as wide. With them some seeds never found one of two structures in 200 steps.
    """
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _level(dims: int, inputs: int, outputs: int) -> nn.Sequential:
    """Twice: convolution of 3 voxels, instance normalisation, ReLU."""

    def step(a: int, b: int) -> Convolution:
        return Convolution(
            dims, a, b, kernel_size=3, act="RELU", norm=("INSTANCE", {"affine": True}), adn_ordering="NA"
        )

    return nn.Sequential(step(inputs, outputs), step(outputs, outputs))
