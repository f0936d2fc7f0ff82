"""A 3D U-Net, the default specialist."""

from __future__ import annotations

from collections.abc import Sequence

from .unet import UNet


class UNet3d(UNet):
    """A 3D U-Net for windows of any size that ``spec.check_roi`` accepts; see ``UNet``."""

    def __init__(self, classes: int, widths: Sequence[int], dropout: float = 0.1, inputs: int = 1) -> None:
        super().__init__(3, classes, widths, dropout, inputs)
