"""One minimal cut of a region: what is known of each voxel, and the border that fits it best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter1d, label

from lib.core.graph_cut import CERTAIN, minimal_cut

from .hints import Hints
from .inside_box import core
from .region import Region

_BINS = 32


@dataclass(frozen=True)
class CutOptions:
    """Weights of the cut. The defaults were chosen on scans that ``benchmarks/bench_clicks.py`` names.

    Args:
        edge_weight: how much longer the ways through strong edges are.
        place: weight of the clicks' places, log odds at the clicks themselves.
        look: weight of the intensities.
        look_large: the same in large structures, of which the place of a click says little.
        mask: weight of the previous mask, log odds.
        border: weight of the region's border as background; above 1 it counts as farther away.
        smooth: weight of the cut between like neighbours, of which a voxel has 26.
        like: intensity difference, in the region's window, up to which neighbours are alike.
        ball: radius around a click that surely belongs to it, in voxels of the working grid.
        near_mm: reach of the positive clicks in the first guess of the intensities.
        rounds: how often intensities are learnt.
    """

    edge_weight: float = 3.0
    place: float = 6.0
    look: float = 0.7
    look_large: float = 1.4
    mask: float = 2.0
    border: float = 1.0
    smooth: float = 1.2
    like: float = 0.1
    ball: float = 2.0
    near_mm: float = 8.0
    rounds: int = 2


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of each voxel of a region before its intensity is looked at, all ``[d, h, w]``.

    Args:
        odds: log odds of the structure, after the clicks and the previous mask.
        nearness: 0..1, how much nearer the positive clicks are than what is outside.
        inside: weights of the voxels whose intensities are first taken for the structure's.
        outside: likewise for the surroundings.
        look: weight of the intensities.
        seeds: voxels ``[n, 3]`` from which the structure is looked for, at least one.
    """

    odds: np.ndarray
    nearness: np.ndarray
    inside: np.ndarray
    outside: np.ndarray
    look: float
    seeds: np.ndarray

    @classmethod
    def of(cls, region: Region, hints: Hints, options: CutOptions, *, large: bool = False) -> Evidence:
        """By the ways from the clicks, and from the region's border."""
        inside, outside = region.voxels(hints.inside), region.voxels(hints.outside)
        seeds = _seeds(region, hints)
        to_inside, to_outside = region.distance(seeds), region.distance(outside)
        away = np.minimum(np.minimum(options.border * region.from_border, to_outside), 1e6)
        nearness = away / (to_inside + away + 1e-6)
        odds = 2 * options.place * (nearness - 0.5)
        if hints.mask is not None:
            earlier = region.from_scan(hints.mask)
            odds += options.mask * (2 * earlier - 1) * _still_valid(earlier, region, inside, outside)
        guess = np.exp(-to_inside / options.near_mm) * (nearness > 0.5)
        look = options.look_large if large else options.look
        return cls(odds, nearness, guess, np.square(1 - nearness), look, seeds)

    def carried(self, region: Region, found: np.ndarray, finer: Region, hints: Hints) -> Evidence:
        """The same on a finer grid over a part of the region, intensities being those of an answer ``found``."""
        nearness = finer.from_region(self.nearness, region)
        inside = finer.from_region(found, region)
        odds = finer.from_region(self.odds, region)
        return Evidence(odds, nearness, *_weights(inside, nearness), self.look, _seeds(finer, hints))


def cut(region: Region, evidence: Evidence, hints: Hints, options: CutOptions) -> np.ndarray:
    """The structure on the region's grid, ``[d, h, w]`` boolean."""
    seeds, outside = evidence.seeds, region.voxels(hints.outside)
    sure = seeds if len(hints.inside) or not hints.all_over else seeds[:0]
    fixed = _balls(region, sure, outside, options.ball)
    if hints.box is not None:
        fixed[~_inside_box(region, hints.box)] = -CERTAIN
    fixed[~region.measured & (fixed <= 0)] = -CERTAIN
    bins = np.clip((region.image * _BINS).astype(int), 0, _BINS - 1)
    guess, other = evidence.inside * (fixed >= 0), evidence.outside + (fixed < 0)
    found = evidence.nearness > 0.5
    for _ in range(options.rounds):
        look = _intensity_odds(bins, guess * region.measured, other * region.measured)
        total = np.where(fixed != 0, fixed, evidence.odds + evidence.look * look)
        found = _connected(
            minimal_cut(region.image, total, smooth=options.smooth, like=options.like, corners=True), seeds
        )
        guess, other = _weights(found, evidence.nearness)
    filled: np.ndarray = binary_fill_holes(found) & (fixed >= 0)
    return filled


def _seeds(region: Region, hints: Hints) -> np.ndarray:
    """Voxels ``[n, 3]`` of the region's grid from which the structure is looked for, at least one."""
    if not len(hints.inside) and hints.all_over and hints.mask is not None:
        seeds = core(region.from_scan(hints.mask) >= 0.5, region.spacing)
        if len(seeds):
            return seeds
    return region.voxels(hints.places())


def _weights(inside: np.ndarray, nearness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much each voxel says about the intensities of the structure, and of the rest, after an answer in 0..1."""
    return inside * np.clip(1.5 * nearness, 0, 1), 1.0 - inside


def _still_valid(earlier: np.ndarray, region: Region, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """How far the previous mask counts, 0..1: not where a click says that it was wrong.

    A click is set in the middle of an error, which therefore reaches about as far as the nearest border of the mask.
    """
    valid = np.ones(region.shape)
    covered = earlier >= 0.5
    for points, wrong in ((inside, ~covered), (outside, covered)):
        depth = distance_transform_edt(wrong, sampling=region.spacing)
        for point in points:
            if wrong[tuple(point)]:
                reach = 1.5 * float(depth[tuple(point)])
                valid *= 1 - np.exp(-np.square(region.distance(point[None]) / reach))
    return valid


def _balls(region: Region, inside: np.ndarray, outside: np.ndarray, radius: float) -> np.ndarray:
    """Large log odds in balls around the clicks, 0 elsewhere; where balls meet, the nearer click counts."""
    away = []
    for points in (inside, outside):
        free = np.ones(region.shape, dtype=bool)
        free[tuple(points.T)] = False
        away.append(distance_transform_edt(free, sampling=region.spacing) if len(points) else np.inf)
    reach = radius * max(region.spacing)
    plus = (away[0] <= reach) & (away[0] <= away[1])
    minus = (away[1] <= reach) & (away[1] < away[0])
    result: np.ndarray = CERTAIN * (np.zeros(region.shape) + plus - minus)
    return result


def _inside_box(region: Region, box: np.ndarray) -> np.ndarray:
    """Voxels of the region whose centre lies in the box of the scan."""
    within = np.ones(region.shape, dtype=bool)
    for axis, ((first, past), n) in enumerate(zip(region.bounds, region.shape, strict=True)):
        centres = first + (np.arange(n) + 0.5) * (past - first) / n
        good = (centres > box[0, axis]) & (centres < box[1, axis])
        within &= good.reshape([-1 if a == axis else 1 for a in range(3)])
    return within


def _intensity_odds(bins: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Log odds of each voxel after the weighted histograms of two groups."""
    shares = []
    for weights in (inside, outside):
        counts = np.bincount(bins.ravel(), weights.ravel(), _BINS)
        shares.append(gaussian_filter1d(counts / max(counts.sum(), 1e-9), 1.0, mode="constant") + 1e-3)
    # No intensity alone decides: a few voxels beside the clicks are a small sample.
    odds: np.ndarray = np.clip(np.log(shares[0] / shares[1]), -3, 3)[bins]
    return odds


def _connected(found: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The parts that hold one of the voxels ``[n, 3]``; all of it if none does."""
    parts, count = label(found)
    wanted = np.unique(parts[tuple(seeds.T)])
    wanted = wanted[wanted > 0]
    if count < 2 or not len(wanted):
        return found
    kept: np.ndarray = np.isin(parts, wanted)
    return kept
