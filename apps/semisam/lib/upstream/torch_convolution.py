"""3D convolutions that stay fast on a CPU for small inputs.

- Package: PyTorch 2.12.1, ``torch.nn.Conv3d``.
- Wrong: for a single small item (batch 1, under about half a million values) its own rule picks a plain convolution
  over oneDNN's: a fifth to a twentieth of the speed, just what predictions and teachers ask for.
- Done: where no gradient is needed, oneDNN is called by name. Where one is, that would not reach the way back: the item
  is cut across its depth, and both halves go as a batch of two. Modules change their class for it, so that networks and
  their states stay as they are. On CPUs without bfloat16 a prediction with the default preset takes half as long again
  without this (docs/reference/benchmarks.md); where bfloat16 is multiplied, it is not called.
- Source: https://github.com/pytorch/pytorch/blob/v2.12.1/aten/src/ATen/native/Convolution.cpp (``use_mkldnn``)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CpuConvolution(nn.Conv3d):
    """``nn.Conv3d``, with the same parameters and results up to rounding."""

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` to ``[B, C', D', H', W']``."""
        # In bfloat16 (autocast) PyTorch takes oneDNN by itself.
        plain = image.device.type != "cpu" or image.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        if plain or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(image)
        if torch.is_grad_enabled():
            return self._in_halves(image) if len(image) == 1 else super().forward(image)
        return torch.mkldnn_convolution(
            image, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )

    def _in_halves(self, image: Tensor) -> Tensor:
        """The same for a batch of one, with a gradient."""
        edge, stride = int(self.padding[0]), self.stride[0]
        reach = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        depth = (image.shape[2] + 2 * edge - reach) // stride + 1
        if depth < 2:
            return super().forward(image)
        half = (depth + 1) // 2  # of an odd depth, the plane in the middle is in both
        length = (half - 1) * stride + reach
        padded = functional.pad(image, (0, 0, 0, 0, edge, edge))
        halves = torch.cat([padded.narrow(2, at * stride, length) for at in (0, depth - half)])
        padding = (0, *self.padding[1:])
        found = functional.conv3d(halves, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return torch.cat([found[:1], found[1:, :, 2 * half - depth :]], dim=2)


def use_cpu_convolutions(network: nn.Module) -> None:
    """Let every 3D convolution of a network be a ``CpuConvolution``; parameters and names stay as they are."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = CpuConvolution
