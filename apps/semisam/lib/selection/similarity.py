"""How similar scans are, on the scale of their study."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_LOOKED_AT = 200
"""Scans, spread over the study, whose distances tell what is usual in it."""
_WIDTH = 0.4
"""Distance at which similarity has fallen to exp(-1/2), relative to the usual one. Narrow enough that the densest part
of a study counts more than its middle, wide enough that a few copies of one scan do not make it typical."""
_BLOCK = 2**23
"""Similarities in memory at once."""


def median_distance(descriptors: Tensor) -> float:
    """Median distance between two scans ``[N, F]`` of a study; 0 for fewer than two."""
    count = len(descriptors)
    some = descriptors[:: max(1, -(-count // _LOOKED_AT))]
    return float(torch.pdist(some).median()) if len(some) > 1 else 0.0


def similarity(some: Tensor, others: Tensor, usual: float) -> Tensor:
    """``[n, F]`` and ``[m, F]`` to ``[n, m]`` in 0..1: 1 for equal scans, nearly 0 at the usual distance.

    ``exp(-d^2 / (2 (0.4 usual)^2))`` for descriptors of unit length, ``d^2 = 2 - 2 cos``.
    """
    squares = (2.0 - 2.0 * (some @ others.T)).clamp_min_(0)
    return squares.div_(-2.0 * (_WIDTH * max(usual, 1e-6)) ** 2).exp_()


def blocks(count: int) -> Iterator[slice]:
    """Slices over ``count`` scans such that a block's similarities with all of them fit into memory."""
    step = max(1, _BLOCK // max(1, count))
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))
