"""Dense displacement fields between two feature grids of one shape.

Two steps: a discrete search over all displacements of a coarse grid, made smooth by coupled convex optimisation and
inverse consistent (Siebert et al., "Fast 3D registration with accurate optimisation and little learning for Learn2Reg
2021", https://arxiv.org/abs/2112.03053), then gradient refinement on a finer grid. Both can be repeated on what has
been matched so far, see ``compose``. Displacements are in voxels of the feature grid, channel n along axis n, and say
where in the moving grid the content of a fixed voxel lies. All is computed on the device of the features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.resampling import along_axes

_LEAST_PLANES = 8
_COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Growing weight of the smooth field in the alternating optimisation."""


def coarse_displacement(fixed: Tensor, moving: Tensor, *, stride: int, reach: int) -> Tensor:
    """Search displacements of up to ``stride * reach`` voxels.

    Args:
        fixed: features ``[C, D, H, W]``.
        moving: features of the same shape.
        stride: voxels of the feature grid to one voxel of the search grid.
        reach: furthest displacement in voxels of the search grid.

    Returns:
        ``[3, D // stride, H // stride, W // stride]`` displacement in voxels of the feature grid; an axis of one voxel
        stays.
    """
    # Nothing moves along an axis of one voxel: 2D images.
    strides = [min(stride, n) for n in fixed.shape[1:]]
    reaches = [reach if n > 1 else 0 for n in fixed.shape[1:]]
    low_fixed = functional.avg_pool3d(fixed[None], strides)[0]
    low_moving = functional.avg_pool3d(moving[None], strides)[0]
    forward = _convex(low_fixed, low_moving, reaches)
    backward = _convex(low_moving, low_fixed, reaches)
    return _inverse_consistent(forward, backward) * stride


def _convex(fixed: Tensor, moving: Tensor, reaches: Sequence[int]) -> Tensor:
    """Smooth displacement ``[3, d, h, w]`` in voxels of ``fixed`` by coupled convex optimisation."""
    widths = [2 * reach + 1 for reach in reaches]
    count = math.prod(widths)
    size = fixed.shape[1:]
    steps = [torch.arange(-reach, reach + 1, dtype=torch.float32, device=fixed.device) for reach in reaches]
    candidates = torch.stack(torch.meshgrid(*steps, indexing="ij")).reshape(3, -1)
    margins = [reach for reach in reversed(reaches) for _ in range(2)]
    padded = functional.pad(moving[None], margins, mode="replicate")[0]
    # One row of candidates at a time: all windows at once would not fit into memory.
    cost = fixed.new_empty(widths[0] * widths[1], *size[:2], widths[2], size[2])
    for number, (a, b) in enumerate(product(*[range(width) for width in widths[:2]])):
        windows = padded[:, a : a + size[0], b : b + size[1]].unfold(3, size[2], 1)
        cost[number] = (windows - fixed[:, :, :, None]).square_().sum(0)
    cost = cost.movedim(3, 1).reshape(count, *size)
    cost = along_axes(cost, [_means(n, times=2) for n in size]).reshape(count, -1)
    lengths = torch.cat([candidates, candidates.square().sum(0, keepdim=True)]).T
    best = cost.min(0).indices
    field = _smooth(candidates[:, best].reshape(3, *size))
    for coupling in _COUPLINGS:
        # Adds |q - f|^2 up to a term that does not depend on the candidate q: |q|^2 - 2 q f
        near = torch.cat([-2 * field.reshape(3, -1), cost.new_ones(1, math.prod(size))])
        best = torch.addmm(cost, lengths, near, alpha=coupling).min(0).indices
        field = _smooth(candidates[:, best].reshape(3, *size))
    return field


def _smooth(values: Tensor) -> Tensor:
    width = [3 if n > 1 else 1 for n in values.shape[1:]]
    around = [n // 2 for n in width]
    return functional.avg_pool3d(values[None], width, stride=1, padding=around, count_include_pad=False)[0]


def _inverse_consistent(forward: Tensor, backward: Tensor, iterations: int = 15) -> Tensor:
    """Half-way between ``forward`` and the inverse of ``backward``, both ``[3, d, h, w]`` in voxels."""
    for _ in range(iterations):
        forward, backward = (
            0.5 * (forward - warp(backward, forward)),
            0.5 * (backward - warp(forward, backward)),
        )
    return forward


def refine_displacement(
    fixed: Tensor,
    moving: Tensor,
    start: Tensor,
    *,
    iterations: int,
    smoothness: float,
    rate: float = 1.0,
    only_change: bool = False,
) -> Tensor:
    """Improve a displacement by gradient descent (Adam) on the features' squared difference.

    The field is kept smooth by a diffusion term and by sampling it through a quadratic B-spline-like box filter.

    Args:
        fixed: features ``[C, D, H, W]``.
        moving: features of the same shape.
        start: displacement ``[3, D, H, W]`` in voxels.
        iterations: gradient steps.
        smoothness: weight of the diffusion term.
        rate: step size in voxels.
        only_change: whether only the change of ``start`` is kept smooth, not the whole field: large deformations then
            cost nothing once they are found.

    Returns:
        ``[3, D, H, W]`` displacement in voxels.
    """
    base = start if only_change else start.new_zeros(())
    control = (torch.zeros_like(start) if only_change else start.clone()).requires_grad_(True)
    optimiser = torch.optim.Adam([control], lr=rate)
    identity = voxel_grid(fixed.shape[1:], fixed.device)
    means = [_means(n, times=3).to(fixed.device) for n in fixed.shape[1:]]
    halves = [(part, fixed[part].contiguous()) for part in _every_second_plane(fixed.shape[1:])]
    # On a GPU, the gradient of sampling adds up in any order for the sampled values, but not for the places: as long
    # as `moving` needs no gradient, two runs give the same bits.
    moving = moving.detach()
    with torch.enable_grad():
        for step in range(iterations):
            optimiser.zero_grad(set_to_none=True)
            field = along_axes(control, means)
            part, seen = halves[step % len(halves)]
            difference = (sample(moving, (identity + base + field)[part]) - seen).square().mean() * fixed.shape[0]
            bending = sum(
                (field.diff(dim=axis).square().mean() for axis in (1, 2, 3) if field.shape[axis] > 1),
                start=start.new_zeros(()),
            )
            (difference + smoothness * bending).backward()
            optimiser.step()
    return base + along_axes(control.detach(), means)


def _every_second_plane(shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """The even and the odd planes of a grid across its longest axis, channels first.

    Neighbours tell much the same: steps that look at one half each take half the time. A small grid stays whole.
    """
    axis = max(range(3), key=lambda n: shape[n])
    if shape[axis] < _LEAST_PLANES:
        return [(slice(None),)]
    before = [slice(None)] * (axis + 1)
    return [(*before, slice(first, None, 2)) for first in (0, 1)]


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The displacement ``[3, D, H, W]`` of ``warp(warp(values, first), second)``, all in voxels of one grid."""
    return second + warp(first, second)


def _means(size: int, times: int) -> Tensor:
    """``_smooth`` several times along an axis of ``size`` voxels, as a matrix ``[size, size]``.

    The mean over a box, at the border over what is inside, is a mean along each axis after the other. Three small
    products take an eighth of the time of three poolings, forward and backward.
    """
    near = (torch.arange(size)[:, None] - torch.arange(size)).abs() <= 1
    result: Tensor = torch.linalg.matrix_power(near / near.sum(dim=1, keepdim=True), times)
    return result


def voxel_grid(shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Voxel coordinates ``[3, D, H, W]``."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(values: Tensor, where: Tensor, *, padding: str = "border") -> Tensor:
    """Linear interpolation of ``values [C, d, h, w]`` at voxel coordinates ``where [3, D, H, W]``."""
    size = torch.tensor(values.shape[1:], dtype=torch.float32).view(3, 1, 1, 1).to(where.device)
    scaled = (where * 2 + 1) / size - 1
    grid = scaled.flip(0).permute(1, 2, 3, 0)[None]
    return functional.grid_sample(values[None], grid, mode="bilinear", padding_mode=padding, align_corners=False)[0]


def warp(values: Tensor, displacement: Tensor) -> Tensor:
    """``values [C, D, H, W]`` moved by ``displacement [3, D, H, W]`` (same grid, in voxels)."""
    return sample(values, voxel_grid(displacement.shape[1:], displacement.device) + displacement)
