"""The specialist network: a 3D U-Net.

Zhang et al., "SemiSAM+: Rethinking semi-supervised medical image segmentation in the era of foundation models",
https://arxiv.org/abs/2502.20749 (their specialist: two convolutions with instance normalisation a level, trilinear
upsampling, dropout at the deepest level and before the head).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UserError
from .spec import SpecialistSpec


class UNet3d(nn.Module):
    """A 3D U-Net for windows of any size that ``spec.check_roi`` accepts.

    Args:
        classes: output channels.
        widths: channels of the levels, from full resolution down; each level halves the resolution.
        dropout: share of features dropped at the deepest level and before the head.
        inputs: input channels.
    """

    def __init__(self, classes: int, widths: Sequence[int], dropout: float = 0.1, inputs: int = 1) -> None:
        super().__init__()
        self.down = nn.ModuleList([_level(a, b) for a, b in zip([inputs, *widths[:-1]], widths, strict=True)])
        self.up = nn.ModuleList([_level(a + b, a) for a, b in pairwise(widths)])
        self.drop = nn.Dropout3d(dropout)
        self.head = nn.Conv3d(widths[0], classes, kernel_size=1)

    def features(self, image: Tensor) -> Tensor:
        """The last features before the head: ``[B, 1, D, H, W]`` to ``[B, widths[0], D, H, W]``."""
        skips: list[Tensor] = []
        values = image
        for depth, level in enumerate(self.down):
            values = level(functional.max_pool3d(values, 2, ceil_mode=True) if depth else values)
            skips.append(values)
        values = self.drop(skips.pop())
        for level in reversed(self.up):
            skip = skips.pop()
            values = functional.interpolate(values, size=skip.shape[2:], mode="trilinear", align_corners=False)
            values = level(torch.cat([skip, values], dim=1))
        return values

    def forward(self, image: Tensor) -> Tensor:
        """Logits: ``[B, 1, D, H, W]`` to ``[B, classes, D, H, W]``."""
        return self.head(self.drop(self.features(image)))


def _level(inputs: int, outputs: int) -> nn.Sequential:
    """Twice: convolution of 3 voxels, instance normalisation, ReLU."""

    def step(a: int, b: int) -> Convolution:
        return Convolution(3, a, b, kernel_size=3, act="RELU", norm=("INSTANCE", {"affine": True}), adn_ordering="NA")

    return nn.Sequential(step(inputs, outputs), step(outputs, outputs))


NETWORKS: dict[str, Callable[[SpecialistSpec], nn.Module]] = {
    "unet3d": lambda spec: UNet3d(spec.channels, spec.widths, spec.dropout)
}


def build_network(spec: SpecialistSpec) -> nn.Module:
    """A network with fresh random weights.

    Raises:
        UserError: when ``spec.network`` is not known.
    """
    if spec.network not in NETWORKS:
        raise UserError(f"There is no network {spec.network!r}. Known: {', '.join(NETWORKS)}.")
    network = NETWORKS[spec.network](spec)
    # Channels last is the faster layout for narrow 3D convolutions, on CPUs by a quarter to a half.
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
