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
_ALIKE = 1e-3
_FEWEST = 0.5
"""What has fewer voxels is not there."""
_NEAR = (0.85, 1.15)
"""A volume between these shares of the one that is wanted will do, or one that differs by a voxel."""


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
    whole[part] = with_volumes_kept(_weighted_mean(fixed[part], moved[part], labels[part]), labels[part])
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


def with_volumes_kept(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Probabilities with which small structures are about as large as their probabilities say.

    Averages are lower at a border, and a thin structure may be nowhere the most probable class. A structure that loses
    more than a tenth of its volume in this way is weighted up until the voxels where it is the most probable class are
    about as many as its probabilities sum up to. Where no weight does that (as all its probabilities are alike, or too
    low), the structure keeps the labels of before the average.

    Args:
        probabilities: averages ``[1 + N, D, H, W]``, background first, sum 1.
        labels: the labels that were averaged, likewise.

    Returns:
        Likewise.
    """
    wanted = probabilities.flatten(1).sum(1).to("cpu").tolist()
    there = _volumes(probabilities)
    small = [n for n in range(1, len(wanted)) if wanted[n] >= _FEWEST and there[n] < (1 - _MOST_LOST) * wanted[n]]
    result = probabilities
    for number in sorted(small, key=lambda n: -wanted[n]):  # the smallest has the last word
        result = _weighted_up(result, number, wanted[number])
    if small:
        result = result / result.sum(0, keepdim=True)
        there = _volumes(result)
    for number in small:
        if not _near(there[number], wanted[number]):
            result = _with_one_kept(result, number, labels[number])
    return result


def _weighted_up(probabilities: Tensor, number: int, wanted: float) -> Tensor:
    """One class times the weight with which ``wanted`` voxels, about, have it as the most probable one."""
    others = torch.cat([probabilities[:number], probabilities[number + 1 :]]).amax(0)
    odds = (probabilities[number] / others.clamp_min(1e-12)).flatten()
    last = odds.topk(min(max(1, round(wanted)), odds.numel())).values[-1].clamp_min(1e-12)
    # Of many voxels that are alike, all come or none.
    with_them, without = (int((odds > factor * last).sum()) for factor in (1 - _ALIKE, 1 + _ALIKE))
    above = 1 - _ALIKE if abs(with_them - wanted) <= abs(without - wanted) else 1 + _ALIKE
    weight = (1 / (above * last)).clamp(1.0, _MOST_WEIGHT)
    result = probabilities.clone()
    result[number] *= weight
    return result


def _with_one_kept(probabilities: Tensor, number: int, label: Tensor) -> Tensor:
    """One class as in ``label [D, H, W]``; the others share the rest as they did."""
    result = probabilities.clone()
    result[number] = 0
    rest = result.sum(0)
    result[0] = torch.where(rest > 0, result[0], 1.0)  # nothing else was there
    result *= (1 - label) / rest.where(rest > 0, torch.ones_like(rest))
    result[number] = label
    return result


def _near(volume: float, wanted: float) -> bool:
    return max(1.0, _NEAR[0] * wanted - 1) <= volume <= _NEAR[1] * wanted + 1


def _volumes(probabilities: Tensor) -> list[int]:
    """Voxels where each class is the most probable one, background first."""
    found: list[int] = torch.bincount(probabilities.argmax(0).flatten(), minlength=len(probabilities)).cpu().tolist()
    return found
