"""Matching of two feature grids: search, refinement, and both again on what has been found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lib.core.resampling import resize

from .brightness import Brightness, with_brightness
from .displacement import coarse_displacement, compose, refine_displacement, warp

FEW = 100_000
"""Voxels of a feature grid up to which the closing refinement is worth its time, and above which a closer search is."""
_SETTLED = 0.5
"""Voxels: a search that finds less everywhere has nothing to add, and a refinement after it would only fit noise."""
_CLOSER = (4, 3)
"""Stride and reach of the closer search that follows where brightness takes part."""
_CLOSING_RATE = 0.15
"""Voxels a step: it only polishes what has been found."""


@dataclass(frozen=True, eq=False)
class Pair:
    """What is matched, on one grid.

    Args:
        fixed: features of the scan ``[C, D, H, W]``.
        moving: the template's, likewise; the scan's where the template has nothing.
        covered: ``[1, D, H, W]``: 1 where the template has something, else 0.
        brightness: gives that of both.
    """

    fixed: Tensor
    moving: Tensor
    covered: Tensor
    brightness: Callable[[], Brightness]


@dataclass(frozen=True)
class Effort:
    """How hard to try; see ``RegistrationPropagator`` for each."""

    stride: int
    reach: int
    fine: int
    iterations: int
    smoothness: float
    passes: int
    closing: int


def match(pair: Pair, effort: Effort, start: Tensor | None) -> Tensor:
    """Displacement ``[3, D, H, W]`` in voxels between two feature grids.

    Args:
        pair: what to match.
        effort: how hard to try.
        start: displacement to begin with, None for a search.
    """
    size = pair.fixed.shape[1:]
    closing = effort.closing > 0 and math.prod(size) <= FEW
    iterations = round(0.6 * effort.iterations) if closing else effort.iterations

    def refined(features: tuple[Tensor, Tensor], start: Tensor, *, only_change: bool) -> Tensor:
        shape = [max(1, n // effort.fine) for n in size]
        fixed, moving = (resize(each, shape) for each in features)
        change = refine_displacement(
            fixed,
            moving,
            resize(start, shape) / effort.fine,
            iterations=iterations,
            smoothness=effort.smoothness,
            only_change=only_change,
        )
        return resize(change, size) * effort.fine

    features = pair.fixed, pair.moving
    if start is None:
        found = coarse_displacement(*features, stride=effort.stride, reach=effort.reach)
        displacement = refined(features, found, only_change=False)
    else:
        displacement = refined(features, start, only_change=True)
    searches = [(effort.stride, effort.reach)] * (effort.passes - 1)
    more = with_brightness(*features, pair.brightness, displacement, pair.covered) if searches else None
    if more is not None:
        features = more
        searches += [_CLOSER] if math.prod(size) > FEW else []
    for stride, reach in searches:
        found = coarse_displacement(features[0], warp(features[1], displacement), stride=stride, reach=reach)
        if more is None and float(found.abs().max()) < _SETTLED:
            break
        displacement = refined(features, compose(displacement, resize(found, size)), only_change=True)
        more = None  # once refined with it, brightness has had its say
    if closing:
        displacement = refine_displacement(
            *features, displacement, iterations=effort.closing, smoothness=effort.smoothness, rate=_CLOSING_RATE
        )
    return displacement
