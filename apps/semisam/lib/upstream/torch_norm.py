"""Instance normalisation that keeps the layout of its input.

- Package: PyTorch 2.12.1, ``torch.nn.InstanceNorm3d``.
- Lacks: channels last. It copies its input to the other layout, and the convolution after it copies it back; on the way
  back the gradient of the ReLU between them meets both layouts, for which there is only a slow path.
- Done: in a training on a CPU, each item is normalised by ``batch_norm``, which knows the layout and is the same thing
  for a batch of one. Modules change their class for it, so that networks and their states stay as they are. Predictions
  stay with PyTorch's own.
- Source: https://github.com/pytorch/pytorch/blob/v2.12.1/aten/src/ATen/native/Normalization.cpp (``instance_norm``)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_MOST_ITEMS = 8
"""Items of a batch that are worth normalising one by one."""


class CpuInstanceNorm(nn.InstanceNorm3d):
    """``nn.InstanceNorm3d``, with the same parameters and results up to rounding."""

    def forward(self, values: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` to the same shape and layout."""
        last = values.is_contiguous(memory_format=torch.channels_last_3d) and not values.is_contiguous()
        here = self.training and values.device.type == "cpu" and torch.is_grad_enabled()
        if not (here and last and len(values) <= _MOST_ITEMS):
            return super().forward(values)
        items = [
            functional.batch_norm(v, None, None, self.weight, self.bias, True, 0.0, self.eps) for v in values.split(1)
        ]
        return items[0] if len(items) == 1 else torch.cat(items)


def use_cpu_normalisation(network: nn.Module) -> None:
    """Let every 3D instance normalisation without statistics be a ``CpuInstanceNorm``; parameters and names stay."""
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d and not module.track_running_stats:
            module.__class__ = CpuInstanceNorm


def use_plain_normalisation(network: nn.Module) -> None:
    """Take back ``use_cpu_normalisation``, for networks that leave for where our class is not known."""
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.__class__ = nn.InstanceNorm3d
