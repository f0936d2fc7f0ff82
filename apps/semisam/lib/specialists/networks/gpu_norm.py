"""Instance normalisation that uses the whole GPU.

PyTorch's gives each channel of each image to one of the GPU's many processors: a batch of two with 16 channels leaves
most of them idle. Sums over all voxels and one product a voxel do not. On other devices PyTorch's own is called.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


class GpuInstanceNorm(nn.InstanceNorm3d):
    """``nn.InstanceNorm3d`` or ``2d`` with weights and without running statistics; the same but for rounding."""

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, ...]`` to the same shape."""
        if image.device.type != "cuda":
            return nn.functional.instance_norm(image, weight=self.weight, bias=self.bias, eps=self.eps)
        with torch.autocast("cuda", enabled=False):  # which would convert the whole image to float32
            return cast("Tensor", _Normalise.apply(image, self.weight, self.bias, self.eps))


def use_gpu_norms(network: nn.Module) -> None:
    """Let every plain instance normalisation of a network, 2D or 3D, be a ``GpuInstanceNorm``.

    Parameters and names stay: checkpoints fit either way.
    """
    for module in network.modules():
        plain = type(module) in (nn.InstanceNorm2d, nn.InstanceNorm3d)
        if plain and module.affine and not module.track_running_stats:
            module.__class__ = GpuInstanceNorm


class _Normalise(torch.autograd.Function):
    """``weight * (x - mean) / deviation + bias`` for each channel of each image, sums in float32."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        axes = tuple(range(2, image.ndim))
        count = image[0, 0].numel()
        mean = image.sum(axes, keepdim=True, dtype=torch.float32) / count
        length = torch.linalg.vector_norm(image, 2, axes, keepdim=True, dtype=torch.float32)
        sharpness = (length.square() / count - mean.square()).clamp_min_(0.0).add_(eps).rsqrt_()
        scale = _column(weight, image) * sharpness
        shift = _column(bias, image) - mean * scale
        ctx.save_for_backward(image, mean, sharpness, scale)
        return torch.addcmul(shift.to(image.dtype), image, scale.to(image.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        image, mean, sharpness, scale = ctx.saved_tensors
        axes = tuple(range(2, image.ndim))
        count = image[0, 0].numel()
        plain = gradient.sum(axes, keepdim=True, dtype=torch.float32)
        along = (gradient * image).sum(axes, keepdim=True, dtype=torch.float32)
        along = sharpness * (along - mean * plain)
        # d image = scale (g - mean of g - normalised image * mean of (g * normalised image)), gathered by g and image
        of_image = -scale * sharpness * along / count
        rest = -scale * plain / count - of_image * mean
        kind = image.dtype
        to_image = torch.addcmul(rest.to(kind), gradient, scale.to(kind)).addcmul_(image, of_image.to(kind))
        return to_image, along.sum(0).flatten(), plain.sum(0).flatten(), None


def _column(values: Tensor, image: Tensor) -> Tensor:
    """``[C]`` float32 to ``[1, C, 1, ...]``."""
    return values.float().view(1, -1, *(1,) * (image.ndim - 2))
