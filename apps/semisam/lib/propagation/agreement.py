"""Whether a propagation went right, told without any truth: do template and scan agree around the structures?

What is left of the difference of the features after the matching is compared with the difference of places that have
nothing to do with each other, in this very pair of scans: noise makes both large. A matching that had to tear and fold
to get there is believed less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib.core.filters import box_mean
from lib.core.resampling import resize

_NEAR = 2
"""Voxels around a structure that are looked at with it."""
_CALM, _PENALTY = 0.5, 0.15
"""Deviation of the logarithm of the local volume change that costs nothing, and what more costs."""
_FAILED, _SOUND = 0.24, 0.3
"""Agreement at which nothing can be trusted, and from which on all can."""
_LEAST_TRUST = 0.02
_LEAST_CHANGE = 0.05
_FINE = 120_000
"""Voxels that are enough to look at."""


def agreement_around(
    fixed: Tensor, moved: Tensor, probabilities: Tensor, covered: Tensor, displacement: Tensor
) -> float:
    """Agreement of template and scan around the structures, see above; about 0..1, 0 where none was found.

    Args:
        fixed: features of the scan ``[C, D, H, W]``.
        moved: the template's after the matching, likewise.
        probabilities: ``[1 + N, D, H, W]``, background first.
        covered: ``[D, H, W]``: 1 where the template has something, else 0.
        displacement: ``[3, D, H, W]`` in voxels.
    """
    inside = (probabilities[1:].sum(0, keepdim=True) > 0.25).float()
    near = box_mean(inside, _NEAR)[0] * covered
    if float(near.sum()) <= 0:
        return 0.0
    share = near / near.sum()
    left = float(((moved - fixed).square().mean(0) * share).sum())
    axes = [axis for axis in (1, 2, 3) if fixed.shape[axis] > 1]
    elsewhere = [moved.roll(fixed.shape[axis] // 3, axis) for axis in axes]
    unrelated = sum(float(((each - fixed).square().mean(0) * share).sum()) for each in elsewhere) / len(axes)
    torn = max(0.0, _unevenness(displacement, near) - _CALM)
    return max(0.0, 1.0 - left / max(unrelated, 1e-9) - _PENALTY * torn)


def _unevenness(displacement: Tensor, near: Tensor) -> float:
    """Standard deviation of the logarithm of the local volume change around the structures."""
    shrink = min(1.0, (_FINE / near.numel()) ** (1 / 3))
    shape = [max(1, round(n * shrink)) for n in near.shape]
    small = resize(displacement, shape)
    factors = [new / old for new, old in zip(shape, near.shape, strict=True)]
    small = small * small.new_tensor(factors).view(3, 1, 1, 1)
    axes = [torch.gradient(small, dim=n)[0] if small.shape[n] > 1 else torch.zeros_like(small) for n in (1, 2, 3)]
    jacobian = torch.stack(axes, dim=1).permute(2, 3, 4, 0, 1) + torch.eye(3, device=small.device)
    change = torch.linalg.det(jacobian)[resize(near[None], shape)[0] > 0.3]
    return float(change.clamp_min(_LEAST_CHANGE).log().std()) if change.numel() > 1 else 0.0


def trust(agreement: float) -> float:
    """How far a label may be believed as a whole, 0..1; 1 for all that agree as scans of one study do.

    Never quite 0, which means that nobody has labelled a voxel at all.
    """
    return min(1.0, max(_LEAST_TRUST, (agreement - _FAILED) / (_SOUND - _FAILED)))
