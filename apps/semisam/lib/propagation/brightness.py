"""Brightness as one more feature, as far as that of the template tells that of the scan.

Descriptors of self-similarity do not know how bright a place is, so organs that touch look much the same to them. In
most studies, a tissue is equally bright in all scans, or at least follows some curve. A first matching shows which: the
mean brightness of the scan for each brightness of the template. The share of the scan's variance that this explains
(the correlation ratio, Roche et al. 1998, https://doi.org/10.1007/BFb0056301) says how far it can be relied on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lib.core.filters import box_mean
from lib.core.geometry import Volume

from .displacement import sample, voxel_grid, warp
from .features import UNRELATED

_WORTH = 24.0
"""Channels of other features that a brightness which explains all counts as."""
_DOUBTFUL, _RELIABLE = 0.33, 0.43
"""Similarity of the features after the first matching up to which brightness is left out, and from which on it counts
fully: what was hardly matched, or is mostly noise, does not show how one brightness belongs to another."""
_LEAST_EXPLAINED = 0.1
"""Share of the variance below which brightness is left out: it may be chance."""
_PERCENTILES = (1.0, 99.0)
_SAMPLES = 50_000
_LEVELS = 32
_SMOOTH = (0.25, 0.5, 0.25)
"""Weights of a level and its neighbours."""
_LEAST_VARIANCE = 1e-6
_LEAST = 1e-3
_NEAR = 4
"""Voxels around the structures that are looked at with them: air around the body would explain too much."""


@dataclass(frozen=True, eq=False)
class Brightness:
    """Of a scan and of a template that is laid over it, on one grid.

    Args:
        scan: ``[1, D, H, W]`` in 0..1.
        template: likewise.
        near: ``[1, D, H, W]``: 1 where the template shows structures or what lies around them, else 0.
    """

    scan: Tensor
    template: Tensor
    near: Tensor


def standardised(image: Tensor, scan: Volume) -> Tensor:
    """Intensities of a scan ``[1, D, H, W]`` on a working grid as brightness: 0..1 between two percentiles of it."""
    some = scan.clipped.ravel(order="K")[:: max(1, scan.clipped.size // _SAMPLES)]
    low, high = (float(each) for each in np.percentile(some, _PERCENTILES))
    return ((image - low) / max(high - low, 1e-6)).clamp(0, 1)


def around(structures: Tensor) -> Tensor:
    """Structures ``[1, D, H, W]`` in 0..1 and what lies around them, as ``Brightness.near``."""
    # What resampling leaves of a structure far from it is rounding, and no structure.
    return (box_mean((structures > _LEAST).float(), _NEAR) > 0).float()


def with_brightness(
    fixed: Tensor, moving: Tensor, brightness: Callable[[], Brightness], displacement: Tensor, covered: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Features with one channel more, None where brightness would tell nothing.

    Args:
        fixed: features of the scan ``[C, D, H, W]``.
        moving: the template's, likewise.
        brightness: gives theirs.
        displacement: ``[3, D, H, W]`` in voxels, as far as it is known.
        covered: ``[1, D, H, W]``: 1 where the template has something, else 0.
    """
    reliable = (_similarity(fixed, moving, displacement, covered) - _DOUBTFUL) / (_RELIABLE - _DOUBTFUL)
    if reliable <= 0:
        return None
    both = brightness()
    seen = warp(covered * both.near, displacement)
    table, explained, variance = _relation(both.scan, warp(both.template, displacement), seen)
    if explained < _LEAST_EXPLAINED:
        return None
    # Two places that have nothing to do with each other differ by twice the variance.
    scale = (_WORTH * min(1.0, reliable) * explained * UNRELATED / (2 * variance)) ** 0.5
    translated = torch.where(covered > 0, _look_up(table, both.template), both.scan)
    return torch.cat([fixed, both.scan * scale]), torch.cat([moving, translated * scale])


def _similarity(fixed: Tensor, moving: Tensor, displacement: Tensor, covered: Tensor) -> float:
    """How well features agree after a matching: 1 - their squared difference over that of unrelated places."""
    some = (slice(None), slice(None, None, 2))  # every second plane tells as much
    places = (voxel_grid(displacement.shape[1:], displacement.device) + displacement)[some]
    seen = sample(covered, places)[0]
    residual = (sample(moving, places) - fixed[some]).square().mean(0)
    return 1.0 - float((residual * seen).sum() / seen.sum().clamp_min(1)) / UNRELATED


def _relation(scan: Tensor, template: Tensor, weight: Tensor) -> tuple[Tensor, float, float]:
    """Mean brightness of the scan for each level of the template's, the share it explains, and the variance.

    Computed on the CPU: on a GPU, sums come out in any order, and two runs would differ.
    """
    own, other, counted = (each.flatten().cpu() for each in (scan, template, weight))
    total = float(counted.sum())
    mean = float((counted * own).sum()) / max(total, 1e-9)
    variance = float((counted * (own - mean).square()).sum()) / max(total, 1e-9)
    if total <= 0 or variance < _LEAST_VARIANCE:
        return scan.new_zeros(_LEVELS), 0.0, variance
    level, share = _levels(other)
    sums = torch.zeros(2, _LEVELS)
    for at, part in ((level, (1 - share) * counted), (level + 1, share * counted)):
        sums.index_add_(1, at, torch.stack([part * own, part]))
    sums = functional.conv1d(sums[:, None], torch.tensor([[_SMOOTH]]), padding=1)[:, 0]
    few = 1e-3 * float(sums[1].mean())  # levels that the template does not have
    table = (sums[0] + few * mean) / (sums[1] + few)
    left = float((counted * (own - _look_up(table, other)).square()).sum()) / total
    return table.to(scan.device), max(0.0, 1 - left / variance), variance


def _levels(values: Tensor) -> tuple[Tensor, Tensor]:
    """The level below each value in 0..1, and how far it is on the way to the next one, 0..1."""
    scaled = values * (_LEVELS - 1)
    level = scaled.floor().clamp(0, _LEVELS - 2)
    return level.long(), scaled - level


def _look_up(table: Tensor, values: Tensor) -> Tensor:
    level, share = _levels(values)
    return torch.lerp(table[level], table[level + 1], share)
