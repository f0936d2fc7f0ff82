"""Linear interpolation to a finer grid whose gradient gives the same numbers each time, and soon.

PyTorch's own gradient adds up on a GPU in whatever order the threads come, and two trainings with one seed would part.
On a CPU it takes three times as long as the products here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.resampling import along_axes

_MODES = {2: "bilinear", 3: "trilinear"}


def upsample(values: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate ``[B, C, *shape]`` linearly to ``[B, C, *size]``, of two or three axes, over the same extent."""
    if not (values.requires_grad and torch.is_grad_enabled()):
        return _interpolate(values, size)
    return cast("Tensor", _Upsample.apply(values, tuple(size)))


def _interpolate(values: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(values, size=list(size), mode=_MODES[len(size)], align_corners=False)


class _Upsample(torch.autograd.Function):
    """``_interpolate`` with a gradient by products along each axis."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, size: tuple[int, ...]) -> Tensor:
        ctx.shape = values.shape
        return _interpolate(values, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient, shape = gradients[0], ctx.shape
        kind = gradient.dtype, gradient.device
        back = [_weights(n, m, *kind).T for n, m in zip(shape[2:], gradient.shape[2:], strict=True)]
        flat = gradient.reshape(shape[0] * shape[1], *(1,) * (5 - len(shape)), *gradient.shape[2:])
        # A 2D image has no depth to multiply along.
        return along_axes(flat, [*(None,) * (3 - len(back)), *back]).reshape(shape), None


@lru_cache(64)  # few sizes come back in every step of a training
def _weights(size: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Interpolation of an axis of ``size`` voxels to ``count`` ones, as a matrix ``[count, size]``."""
    unit = torch.eye(size, dtype=torch.float32)[None]
    found = functional.interpolate(unit, size=count, mode="linear", align_corners=False)[0].T
    return found.to(device=device, dtype=dtype)
