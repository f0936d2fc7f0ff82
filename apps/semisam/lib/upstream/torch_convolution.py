"""3D convolutions that stay fast on a CPU for small inputs.

- Package: PyTorch 2.12.1, ``torch.nn.Conv3d``.
- Wrong: for a single small item (batch 1, under about half a million values) its own rule picks a plain convolution
  over oneDNN's, which is far faster: just what predictions and teachers ask for.
- Done: where no gradient is needed, oneDNN is called by name. Modules change their class for it, so that networks and
  their states stay as they are. Where a CPU multiplies bfloat16 it is not called, nor in training: PyTorch takes oneDNN
  by itself for bfloat16, and for the two windows of a step.
- Wrong, too: where a CPU multiplies bfloat16, the gradient of the weights for a small input of two slices (2 x 9 x 9
  with 128 channels, say) now and then holds what is no number, as if memory was read that nobody has written.
- Done: inputs of so few slices are convolved in float32 in a training.
- Source: https://github.com/pytorch/pytorch/blob/v2.12.1/aten/src/ATen/native/Convolution.cpp (``use_mkldnn``)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FEW = 2
"""Voxels along an edge with which oneDNN's gradient in bfloat16 is not to be trusted."""


class CpuConvolution(nn.Conv3d):
    """``nn.Conv3d``, with the same parameters and results up to rounding."""

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` to ``[B, C', D', H', W']``."""
        # In bfloat16 (autocast) PyTorch takes oneDNN by itself.
        if image.device.type == "cpu" and torch.is_grad_enabled() and min(image.shape[2:]) <= _FEW:
            with torch.autocast("cpu", enabled=False):
                return super().forward(image.float())
        plain = image.device.type != "cpu" or image.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        if plain or torch.is_grad_enabled() or self.padding_mode != "zeros" or isinstance(self.padding, str):
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


def use_plain_convolutions(network: nn.Module) -> None:
    """Take back ``use_cpu_convolutions``, for networks that leave for where oneDNN is not known by name."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.__class__ = nn.Conv3d
