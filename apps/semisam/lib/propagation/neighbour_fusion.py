"""Labels fused over the neighbours of the place that a matching has found.

A smooth displacement cannot follow every border, above all where a voxel of the working grid is large. Each voxel of
the scan therefore looks at the places of the template next to the one it was matched to, and takes the mean of their
labels, those counting most whose surroundings look most like its own (patch-based label fusion of one template, Coupe
et al. 2011, https://doi.org/10.1016/j.neuroimage.2010.09.018).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.filters import box_mean

_REACH = 1
"""Voxels along each axis as far as neighbours are looked at."""
_PATCH = 1
"""Radius in voxels of the surroundings that are compared."""
_SOFTNESS = 0.4
"""Squared difference of the features (sum over the channels) by which a neighbour may differ more than another one to
count 1/e of it. Places that have nothing to do with each other differ by about 2."""
_LEAST = 1e-3
_MOST_LOST = 0.1
"""Share of its volume that a structure may lose to averaging."""
_MOST_WEIGHT = 3.0
_ROUNDS, _STEP = 8, 0.6
_FEWEST = 2.0
"""Voxels that keep ratios of tiny volumes bounded."""


def fused_over_neighbours(fixed: Tensor, moved: Tensor, labels: Tensor) -> Tensor:
    """Labels of a scan, each voxel's the weighted mean over the neighbours of its place in the template.

    Args:
        fixed: features of the scan ``[C, D, H, W]``.
        moved: the template's after the matching, likewise.
        labels: the template's after the matching ``[1 + N, D, H, W]``, background first, sum 1.

    Returns:
        ``[1 + N, D, H, W]``, sum 1.
    """
    part = _around(labels)
    if part is None:
        return labels
    whole = labels.clone()
    whole[part] = with_volumes_kept(_weighted_mean(fixed[part], moved[part], labels[part]))
    return whole


def _around(labels: Tensor) -> tuple[slice, ...] | None:
    """The part of a grid with all structures and their neighbours, channels first; None where there are none."""
    there = labels[0] < 1 - _LEAST
    part = [slice(None)]
    for axis in range(3):
        places = there.any(dim=[n for n in range(3) if n != axis]).nonzero()
        if not len(places):
            return None
        margin = _REACH + _PATCH
        part.append(slice(max(0, int(places[0]) - margin), int(places[-1]) + 1 + margin))
    return tuple(part)


def _weighted_mean(fixed: Tensor, moved: Tensor, labels: Tensor) -> Tensor:
    size = fixed.shape[1:]
    reach = [_REACH if n > 1 else 0 for n in size]
    margins = [n for n in reversed(reach) for _ in range(2)]
    features, candidates = (functional.pad(each[None], margins, mode="replicate")[0] for each in (moved, labels))
    windows = [
        (slice(None), *(slice(first, first + n) for first, n in zip(corner, size, strict=True)))
        for corner in product(*(range(2 * n + 1) for n in reach))
    ]
    costs = fixed.new_empty(len(windows), *size)
    for number, window in enumerate(windows):
        costs[number] = box_mean((features[window] - fixed).square_().sum(0, keepdim=True), _PATCH)[0]
    weights = torch.softmax(costs.div_(-_SOFTNESS), dim=0)
    mean = torch.zeros_like(labels)
    for weight, window in zip(weights, windows, strict=True):
        mean.addcmul_(candidates[window], weight)
    return mean


def with_volumes_kept(probabilities: Tensor) -> Tensor:
    """Probabilities with which small structures are as large as their probabilities say.

    Averages are lower at a border, and a thin structure may be nowhere the most probable class. A structure that loses
    more than a tenth of its volume in this way is weighted up until the voxels where it is the most probable class are
    as many as its probabilities sum up to.

    Args:
        probabilities: ``[1 + N, D, H, W]``, background first, sum 1.

    Returns:
        Likewise.
    """
    wanted = probabilities.flatten(1).sum(1)
    weights = torch.ones_like(wanted)
    small = _volumes(probabilities) < (1 - _MOST_LOST) * wanted
    small[0] = False
    if not bool(small.any()):
        return probabilities
    for _ in range(_ROUNDS):
        there = _volumes(probabilities * weights.view(-1, 1, 1, 1))
        step = ((wanted + _FEWEST) / (there + _FEWEST)).clamp(0.7, 1.4) ** _STEP
        weights = torch.where(small, (weights * step).clamp(1.0, _MOST_WEIGHT), weights)
    weighted = probabilities * weights.view(-1, 1, 1, 1)
    return weighted / weighted.sum(0, keepdim=True)


def _volumes(probabilities: Tensor) -> Tensor:
    """Voxels where each class is the most probable one, ``[1 + N]``."""
    return torch.bincount(probabilities.argmax(0).flatten(), minlength=len(probabilities)).to(probabilities.dtype)
