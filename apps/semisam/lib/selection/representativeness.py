"""Which scans stand for the study: where it is densest, and greedy facility location."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from .similarity import blocks, median_distance, similarity

_AT_ONCE = 128
"""Gains that are worked out together: one by one is many times slower when many are nearly equal."""
_DIGITS = 5
"""Gains that are equal to so many digits are equal: the order of sums must not decide."""


def representativeness(descriptors: Tensor) -> Tensor:
    """How well each scan stands for the whole study: its mean similarity with the others, relative to the best scan's.

    Args:
        descriptors: ``[N, F]`` of unit length, see ``describe``.

    Returns:
        ``[N]`` float32 in 0..1; 1 for the most typical scan.
    """
    count = len(descriptors)
    if count < 2:
        return torch.ones(count)
    usual = median_distance(descriptors)
    total = torch.cat([similarity(descriptors[part], descriptors, usual).sum(1) for part in blocks(count)])
    others = (total - 1.0).clamp_min(0)  # less the similarity with itself
    return others / others.max() if float(others.max()) > 1e-9 else torch.ones(count)


def spread(descriptors: Tensor, chosen: Sequence[int], count: int) -> list[int]:
    """The next scans to look at so that the study is covered best, given those looked at already.

    Facility location: the sum over all scans of the similarity with the most alike chosen one grows most by the scan
    that comes next. Without any chosen, the first one is the most representative. Gains only fall, so that old ones are
    upper bounds and few have to be worked out again (lazy greedy).

    Args:
        descriptors: ``[N, F]`` of unit length.
        chosen: positions of scans that are taken.
        count: how many to add; fewer come back when there are no more.

    Returns:
        Positions in the order of their worth; equal ones by position.
    """
    usual = median_distance(descriptors)
    covered = torch.zeros(len(descriptors))
    for n in set(chosen):
        covered = torch.maximum(covered, similarity(descriptors[n][None], descriptors, usual)[0])

    def gains(part: slice | list[int]) -> Tensor:
        return (similarity(descriptors[part], descriptors, usual) - covered).clamp_min_(0).sum(1)

    taken = set(chosen)
    heap = [
        (-round(float(gain), _DIGITS), n)
        for part in blocks(len(descriptors))
        for n, gain in zip(range(part.start, part.stop), gains(part), strict=True)
        if n not in taken
    ]
    heapq.heapify(heap)
    found: list[int] = []
    known_at: dict[int, int] = {}  # how many were found when a gain was worked out
    while heap and len(found) < count:
        n = heap[0][1]
        if known_at.get(n, 0) < len(found):
            some = [heapq.heappop(heap)[1] for _ in range(min(_AT_ONCE, len(heap)))]
            for other, gain in zip(some, gains(some), strict=True):
                heapq.heappush(heap, (-round(float(gain), _DIGITS), other))
                known_at[other] = len(found)
            continue
        heapq.heappop(heap)
        found.append(n)
        covered = torch.maximum(covered, similarity(descriptors[n][None], descriptors, usual)[0])
    return found
