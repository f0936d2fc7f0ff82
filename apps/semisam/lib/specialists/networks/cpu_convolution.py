"""3D convolutions that stay fast on a CPU for small inputs.

For a single small item (batch 1, under about half a million values) PyTorch's own rule picks a plain convolution over
oneDNN's: a fifth to a twentieth of the speed, just what predictions and teachers ask for. Where no gradient is needed,
oneDNN is called by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CpuConvolution(nn.Conv3d):
    """``nn.Conv3d``, with the same parameters and results up to rounding."""

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` to ``[B, C', D', H', W']``."""
        # Where a gradient is asked for (a mixed-precision run is never on a CPU), PyTorch's choice is kept.
        plain = torch.is_grad_enabled() or image.device.type != "cpu" or image.dtype != torch.float32
        if plain or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(image)
        return torch.mkldnn_convolution(
            image, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


def use_cpu_convolutions(network: nn.Module) -> None:
    """Let every 3D convolution of a network be a ``CpuConvolution``; parameters and names stay as they are."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = CpuConvolution
