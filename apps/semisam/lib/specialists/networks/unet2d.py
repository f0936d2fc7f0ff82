"""A 2D U-Net, for pictures and for scans with few or thick slices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from .slices import fold_slices, unfold_slices
from .unet import UNet


class UNet2d(UNet):
    """Sees every slice of a window on its own; see ``UNet``.

    Args:
        classes: output channels.
        widths: channels of the levels, from full resolution down; each level halves the resolution of a slice.
        dropout: share of features dropped at the deepest level and before the head.
        inputs: input channels.
        slice_axis: 0, 1 or 2; the window may be of any size along it, 1 included.
    """

    layout = torch.channels_last

    def __init__(
        self, classes: int, widths: Sequence[int], dropout: float = 0.1, inputs: int = 1, slice_axis: int = 2
    ) -> None:
        super().__init__(2, classes, widths, dropout, inputs)
        self._axis = slice_axis

    @override
    def features(self, image: Tensor) -> Tensor:
        return unfold_slices(super().features(fold_slices(image, self._axis)), self._axis, len(image))

    @override
    def classify(self, features: Tensor) -> Tensor:
        return unfold_slices(super().classify(fold_slices(features, self._axis)), self._axis, len(features))
