"""A start that a search has found, improved by gradient ascent on the same masked correlation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lib.core.frames import Frame

from .affine_placement import Start
from .displacement import sample, voxel_grid
from .search import FLOOR, OVERLAP_POWER, View, most_seen

_RATE = 0.25
"""Voxels a step."""


def improved(scan: View, template: View, start: Start, *, rigid: bool, iterations: int = 30) -> Start:
    """A start improved by gradient ascent (Adam) on the masked correlation.

    Args:
        scan: the scan.
        template: the template.
        start: what to begin with.
        rigid: whether only rotation and shift change, else all twelve numbers of an affine map.
        iterations: steps.
    """
    free = 2 if scan.frame.flat else 3
    shape = (scan.values.shape[1], scan.values.shape[2], scan.values.shape[3])
    matrix = torch.from_numpy(start.placement(scan.frame, template.frame).matrix).float()
    middle = (torch.tensor(shape, dtype=torch.float32) - 1) / 2
    grid = voxel_grid(shape) - middle.view(3, 1, 1, 1)
    reach = float(middle.max())
    offset = matrix[:, :3] @ middle + matrix[:, 3]
    both = torch.cat([template.values, template.seen])
    most = most_seen(scan, template.seen)
    change = torch.zeros(3, 4, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=_RATE)

    def moved() -> tuple[Tensor, Tensor]:
        mask = torch.zeros(3, 4)
        mask[:free, :free] = 1
        mask[:free, 3] = 1
        own = change * mask
        # A step moves the border by as much as a shift moves all.
        turn = own[:, :3] / reach
        turn = torch.linalg.matrix_exp(turn - turn.T) if rigid else torch.eye(3) + turn
        return matrix[:, :3] @ turn, offset + own[:, 3]

    best, kept = -math.inf, (matrix[:, :3], offset)
    with torch.enable_grad():
        for _ in range(iterations):
            optimiser.zero_grad(set_to_none=True)
            linear, shift = moved()
            places = torch.einsum("ab,bdhw->adhw", linear, grid) + shift.view(3, 1, 1, 1)
            # Of a picture, in pixels of the scan: a template that is laid larger has more of them.
            score = _agreement(scan, both, places, most / linear.det().abs() if scan.frame.flat else most, free)
            if score.item() > best:
                best, kept = score.item(), (linear.detach(), shift.detach())
            (-score).backward()
            optimiser.step()
    linear, shift = kept
    voxels = torch.cat([linear, (shift - linear @ middle)[:, None]], dim=1).double().numpy()
    return _start_of(voxels, scan.frame, template.frame)


def _agreement(scan: View, template: Tensor, places: Tensor, most: Tensor | float, axes: int) -> Tensor:
    """Masked correlation of a scan with a template's values and weights ``[2, d, h, w]`` at places in its voxels."""
    size = torch.tensor(template.shape[1:], dtype=torch.float32).view(3, 1, 1, 1)
    near = (places + 0.5).clamp(0, 1) * (size - 0.5 - places).clamp(0, 1)
    there = sample(template, places)
    inside = near[:axes].prod(0, keepdim=True) * there[1:] * scan.seen
    count = inside.sum().clamp_min(1e-3)
    a = scan.values - (scan.values * inside).sum() / count
    b = there[:1] - (there[:1] * inside).sum() / count
    va, vb = (a.square() * inside).sum() / count, (b.square() * inside).sum() / count
    correlation = (a * b * inside).sum() / count / ((va + FLOOR) * (vb + FLOOR)).sqrt()
    return correlation * (count / most).clamp(0, 1) ** OVERLAP_POWER


def _start_of(voxels: np.ndarray, scan: Frame, template: Frame) -> Start:
    """A map between voxels of two grids as one between their frames' mm."""
    step, other = np.array(scan.spacing), np.array(template.spacing)
    first = np.array([b[0] * v for b, v in zip(scan.box, scan.voxel, strict=True)]) + 0.5 * step
    other_first = np.array([b[0] * v for b, v in zip(template.box, template.voxel, strict=True)]) + 0.5 * other
    linear = voxels[:, :3] * other[:, None] / step
    return Start(np.column_stack([linear, voxels[:, 3] * other + other_first - linear @ first]))
