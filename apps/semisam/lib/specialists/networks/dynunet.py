"""MONAI's DynUNet, whose strides follow the window.

Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation", Nature
Methods 2021; the rule for the strides is a shorter form of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai.networks.nets import DynUNet
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from lib.upstream.dynunet import drop_nested_copy, features_of

from .base import SpecialistNetwork

_LEAST_EDGE = 4
"""No axis is shortened below this many voxels."""

_COARSE = 2.0
"""An axis this much coarser than the finest one waits until the others have caught up."""


class DynUNetSpecialist(SpecialistNetwork):
    """A DynUNet without deep supervision, for windows of any size that ``spec.check_roi`` accepts.

    Windows that the strides do not divide are padded, and the answer is cut back.

    Args:
        classes: output channels.
        widths: channels of the levels, from full resolution down; two levels at least.
        spacing: voxel size in mm.
        roi: voxels of the usual window.
        dropout: share of features dropped before the head.
        inputs: input channels.
    """

    def __init__(
        self,
        classes: int,
        widths: Sequence[int],
        spacing: Sequence[float],
        roi: Sequence[int],
        dropout: float = 0.1,
        inputs: int = 1,
    ) -> None:
        super().__init__()
        self.width = widths[0]
        kernels, strides = plan_levels(len(widths), spacing, roi)
        self.net = DynUNet(
            spatial_dims=3,
            in_channels=inputs,
            out_channels=classes,
            kernel_size=kernels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=list(widths),
            norm_name=("INSTANCE", {"affine": True}),
        )
        drop_nested_copy(self.net)
        self.drop = nn.Dropout3d(dropout)
        self._step = [math.prod(s[axis] for s in strides) for axis in range(3)]

    @override
    def features(self, image: Tensor) -> Tensor:
        size = image.shape[2:]
        missing = [-n % step for n, step in zip(size, self._step, strict=True)]
        values = image
        if any(missing):
            values = functional.pad(image, [0, missing[2], 0, missing[1], 0, missing[0]], mode="replicate")
        return features_of(self.net, values)[:, :, : size[0], : size[1], : size[2]]

    @override
    def classify(self, features: Tensor) -> Tensor:
        result: Tensor = self.net.output_block(self.drop(features))
        return result


def plan_levels(
    levels: int, spacing: Sequence[float], roi: Sequence[int]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Kernel sizes and strides of the levels by axis.

    A level halves the axes that are long enough and not much coarser than the finest. An axis that is still much
    coarser is not mixed (kernel 1), nor is one of a single voxel.

    Args:
        levels: number of levels.
        spacing: voxel size in mm.
        roi: voxels of the window.
    """
    sizes, edges = [float(s) for s in spacing], list(roi)
    kernels: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = []
    for level in range(levels):
        stride = [1, 1, 1]
        if level:
            able = [axis for axis in range(3) if edges[axis] >= 2 * _LEAST_EDGE]
            finest = min((sizes[axis] for axis in able), default=0.0)
            for axis in able:
                if sizes[axis] < _COARSE * finest:
                    stride[axis] = 2
                    sizes[axis] *= 2
                    edges[axis] = -(-edges[axis] // 2)
        strides.append((stride[0], stride[1], stride[2]))
        coarse = _COARSE * min(sizes)
        kernels.append(tuple(1 if size >= coarse or n == 1 else 3 for size, n in zip(sizes, edges, strict=True)))
    return kernels, strides
