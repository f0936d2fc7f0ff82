"""Matching of two feature grids: search, refinement, and both again on what has been found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
_CLOSEST, _LOOSER = (3, 3), 0.5
"""The same of one more search where the grid is coarse, and the share of the smoothness in the refinement after it: a
voxel of such a grid spans more anatomy, so that displacements differ more from one to the next."""
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
        coarse: whether a voxel of the grid holds several of the scan's.
    """

    fixed: Tensor
    moving: Tensor
    covered: Tensor
    brightness: Callable[[], Brightness]
    coarse: bool = False


@dataclass(frozen=True, eq=False)
class Matched:
    """What a matching has found.

    Args:
        displacement: ``[3, D, H, W]`` in voxels.
        fixed: features of the scan ``[C, D, H, W]`` that were matched last, brightness behind the others where it took
            part.
        moving: the template's, likewise, not moved.
    """

    displacement: Tensor
    fixed: Tensor
    moving: Tensor


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

    def closes(self, size: Sequence[int]) -> bool:
        """Whether a grid of ``size`` voxels is refined whole at last."""
        return self.closing > 0 and math.prod(size) <= FEW


@dataclass(frozen=True)
class _Search:
    """A search on what has been matched so far, and the smoothness of the refinement after it."""

    stride: int
    reach: int
    smoothness: float
    relearn: bool = False
    """Whether the relation of brightness is taken down again before it, as the matching is better now."""


def match(pair: Pair, effort: Effort, start: Tensor | None) -> Matched:
    """Displacement between two feature grids.

    Args:
        pair: what to match.
        effort: how hard to try.
        start: displacement to begin with, None for a search.
    """
    features = pair.fixed, pair.moving
    if start is None:
        found = coarse_displacement(*features, stride=effort.stride, reach=effort.reach)
        displacement = _refined(features, found, effort, effort.smoothness, only_change=False)
    else:
        displacement = _refined(features, start, effort, effort.smoothness, only_change=True)
    joined = _joined(pair, displacement) if effort.passes > 1 else None
    size = pair.fixed.shape[1:]
    for number, search in enumerate(_searches(pair, effort, bright=joined is not None)):
        if search.relearn:
            joined = _joined(pair, displacement) or joined
        features = joined or features
        moved = warp(features[1], displacement)
        found = coarse_displacement(features[0], moved, stride=search.stride, reach=search.reach)
        # Brightness has a say at least once, however little a search finds.
        if (joined is None or number > 0) and float(found.abs().max()) < _SETTLED:
            break
        further = compose(displacement, resize(found, size))
        displacement = _refined(features, further, effort, search.smoothness, only_change=True)
    if effort.closes(size):
        displacement = refine_displacement(
            *features, displacement, iterations=effort.closing, smoothness=effort.smoothness, rate=_CLOSING_RATE
        )
    return Matched(displacement, *features)


def _searches(pair: Pair, effort: Effort, *, bright: bool) -> list[_Search]:
    """The searches that follow the first matching; more on large grids where brightness takes part."""
    found = [_Search(effort.stride, effort.reach, effort.smoothness)] * (effort.passes - 1)
    if bright and pair.fixed[0].numel() > FEW:
        found.append(_Search(*_CLOSER, effort.smoothness))
        if pair.coarse:
            found.append(_Search(*_CLOSEST, _LOOSER * effort.smoothness, relearn=True))
    return found


def _joined(pair: Pair, displacement: Tensor) -> tuple[Tensor, Tensor] | None:
    return with_brightness(pair.fixed, pair.moving, pair.brightness, displacement, pair.covered)


def _refined(
    features: tuple[Tensor, Tensor], start: Tensor, effort: Effort, smoothness: float, *, only_change: bool
) -> Tensor:
    """A displacement improved by gradient descent on a grid that is ``effort.fine`` times as coarse."""
    size = features[0].shape[1:]
    shape = [max(1, n // effort.fine) for n in size]
    fixed, moving = (resize(each, shape) for each in features)
    change = refine_displacement(
        fixed,
        moving,
        resize(start, shape) / effort.fine,
        iterations=round(0.6 * effort.iterations) if effort.closes(size) else effort.iterations,
        smoothness=smoothness,
        only_change=only_change,
    )
    return resize(change, size) * effort.fine
