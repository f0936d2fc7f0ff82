"""Whether a propagation went right, told without any truth: do template and scan agree around the structures?

It is the correlation of their features after the matching, each averaged over a few voxels: noise, which makes the
features of equal places differ, averages out there, and anatomy does not. A matching that had to tear and fold to get
there is believed less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib.core.filters import box_mean
from lib.core.resampling import resize

_NEAR = 2
"""Voxels around a structure that are looked at with it."""
_SMOOTH = 2
"""Radius in voxels of the average of the features."""
_CALM, _PENALTY = 0.55, 0.25
"""Deviation of the logarithm of the local volume change that costs nothing, and what more costs."""
_FAILED, SOUND = 0.35, 0.41
"""Agreement at which nothing can be trusted, and from which on all can."""
_LEAST_TRUST = 0.02
_LEAST_CHANGE = 0.05
_FINE = 120_000
"""Voxels that are enough to look at."""


def agreement_around(
    fixed: Tensor, moved: Tensor, probabilities: Tensor, covered: Tensor, displacement: Tensor
) -> float:
    """Agreement of template and scan around the structures, see above; 0..1, 0 where none was found.

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
    seen = box_mean(covered[None], _SMOOTH).clamp_min(1e-3)
    one, other = (_centred(box_mean(each * covered, _SMOOTH) / seen, share) for each in (fixed, moved))
    together, mine, theirs = (float((a * b * share).sum()) for a, b in ((one, other), (one, one), (other, other)))
    correlation = together / max((mine * theirs) ** 0.5, 1e-9)
    torn = max(0.0, _unevenness(displacement, near) - _CALM)
    agreement: float = max(0.0, correlation - _PENALTY * torn)
    return agreement


def _centred(values: Tensor, share: Tensor) -> Tensor:
    return values - (values * share).sum(dim=(1, 2, 3), keepdim=True)


def _unevenness(displacement: Tensor, near: Tensor) -> float:
    """Standard deviation of the logarithm of the local volume change around the structures."""
    shrink = min(1.0, (_FINE / near.numel()) ** (1 / 3))
    shape = [max(1, round(n * shrink)) for n in near.shape]
    small = resize(displacement, shape)
    factors = [new / old for new, old in zip(shape, near.shape, strict=True)]
    small = small * torch.tensor(factors, device=small.device).view(3, 1, 1, 1)
    axes = [torch.gradient(small, dim=n)[0] if small.shape[n] > 1 else torch.zeros_like(small) for n in (1, 2, 3)]
    jacobian = torch.stack(axes, dim=1).permute(2, 3, 4, 0, 1) + torch.eye(3, device=small.device)
    change = torch.linalg.det(jacobian)[resize(near[None], shape)[0] > 0.3]
    return float(change.clamp_min(_LEAST_CHANGE).log().std()) if change.numel() > 1 else 0.0


def trust(agreement: float) -> float:
    """How far a label may be believed as a whole, 0..1; 1 for all that agree as scans of one study do.

    Never quite 0, which means that nobody has labelled a voxel at all.
    """
    return min(1.0, max(_LEAST_TRUST, (agreement - _FAILED) / (SOUND - _FAILED)))
