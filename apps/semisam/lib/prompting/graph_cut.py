"""Clicks without weights: a graph cut over how far a voxel lies from the clicks and how it looks.

Each voxel is weighed by three things: whether its way to a positive click is shorter than to a negative one or to the
border of the region, ways through edges being longer (geodesic segmentation, Bai & Sapiro, ICCV 2007,
https://doi.org/10.1109/ICCV.2007.4408931); how much more often its intensity occurs inside than outside, learnt anew
from its own first result (GrabCut, Rother et al., SIGGRAPH 2004, https://doi.org/10.1145/1015706.1015720); and, if
given, the previous mask. A minimal cut then puts the border where few like neighbours are parted (Boykov & Jolly, ICCV
2001, https://doi.org/10.1109/ICCV.2001.937505).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, gaussian_filter1d, label
from torch import Tensor

from lib.core.errors import UserError
from lib.core.graph_cut import CERTAIN, minimal_cut
from lib.core.intensity import padding_in, without_outliers
from lib.generalists.base import PromptKind, Prompts

from .region import Bounds, Region, cut_region

_BINS = 32


@dataclass(frozen=True)
class GraphCutOptions:
    """Weights of the cut. The defaults were chosen on twelve scans, which ``benchmarks/bench_clicks.py`` names.

    Args:
        voxels: size of the working grid; what the answer's time depends on.
        margin_mm: how far from the positive clicks the structure may reach.
        edge_weight: how much longer the ways through strong edges are.
        place: weight of the clicks' places, log odds at the clicks themselves.
        look: weight of the intensities.
        mask: weight of the previous mask, log odds.
        border: weight of the region's border as background; above 1 it counts as farther away.
        smooth: weight of the cut between like neighbours.
        like: intensity difference, in the region's window, up to which neighbours are alike.
        ball: radius around a click that surely belongs to it, in voxels of the working grid.
        near_mm: reach of the positive clicks in the first guess of the intensities.
        rounds: how often intensities are learnt.
    """

    voxels: int = 120_000
    margin_mm: float = 50.0
    edge_weight: float = 3.0
    place: float = 6.0
    look: float = 0.7
    mask: float = 2.0
    border: float = 1.0
    smooth: float = 3.0
    like: float = 0.1
    ball: float = 2.0
    near_mm: float = 8.0
    rounds: int = 2


class GraphCut:
    """Segments what it is pointed at, by intensities and edges alone.

    Args:
        options: weights.
    """

    name = "graph_cut"
    prompts: frozenset[PromptKind] = frozenset({"points", "box", "mask"})

    def __init__(self, options: GraphCutOptions | None = None) -> None:
        self.options = options or GraphCutOptions()

    def open(self, image: Tensor, spacing: Sequence[float]) -> GraphCutSession:
        """Get a scan ``[1, D, H, W]`` with this voxel size in mm ready for prompts."""
        d, h, w = (float(s) for s in spacing)
        # How thick a 2D image is says nothing about how far its places lie apart.
        thickness = max(d, h) if image.shape[3] == 1 else w
        return GraphCutSession(without_outliers(image)[0].numpy(), (d, h, thickness), self.options)


class GraphCutSession:
    """A scan that waits for prompts; the region around the latest clicks is kept."""

    def __init__(self, image: np.ndarray, spacing: Sequence[float], options: GraphCutOptions) -> None:
        self._image = image
        self._spacing = spacing
        self._options = options
        self._padding = padding_in(image)
        self._kept: tuple[object, Region] | None = None
        self._lock = threading.Lock()

    def segment(self, prompts: Prompts) -> Tensor:
        """Probability of the structure that the prompts mean, ``[D, H, W]`` in 0..1; raises UserError without any."""
        hints = _Hints.of(prompts, self._image.shape)
        region = self._region(hints)
        inside = _segment(region, hints, self._options)
        soft = gaussian_filter(inside.astype(np.float32), 0.7)
        return region.to_scan(soft, self._image.shape)

    def _region(self, hints: _Hints) -> Region:
        options = self._options
        bounds = _bounds(hints, self._image.shape, np.array(self._spacing), options.margin_mm)
        places = hints.places()
        key = (bounds, places.tobytes())
        with self._lock:
            kept = self._kept
        if kept is None or kept[0] != key:
            region = cut_region(
                self._image,
                self._spacing,
                bounds,
                places,
                voxels=options.voxels,
                edge_weight=options.edge_weight,
                padding=self._padding_without(places),
            )
            kept = key, region
            with self._lock:
                self._kept = kept
        return kept[1]

    def _padding_without(self, places: np.ndarray) -> tuple[float, ...]:
        """The scan's padding, unless it is what a person has pointed at."""
        at = np.clip(np.rint(places).astype(int), 0, np.array(self._image.shape) - 1)
        meant = self._image[tuple(at.T)]
        return tuple(value for value in self._padding if not (meant == value).any())


@dataclass(frozen=True, eq=False)
class _Hints:
    """Prompts that fit the scan, as arrays; ``box`` is first and past-the-last voxel."""

    inside: np.ndarray
    outside: np.ndarray
    box: np.ndarray | None
    mask: np.ndarray | None

    @classmethod
    def of(cls, prompts: Prompts, shape: Sequence[int]) -> _Hints:
        """Check prompts for a scan of ``shape`` voxels; raises UserError."""
        points = prompts.points.detach().cpu().numpy().reshape(-1, 3).astype(np.float64)
        positive = prompts.positive.detach().cpu().numpy().astype(bool).reshape(-1)
        size = np.array(shape)
        for point in points:
            if not (np.isfinite(point).all() and (point >= -0.5).all() and (point <= size - 0.5).all()):
                where = ", ".join(f"{x:g}" for x in point)
                raise UserError(
                    f"The click at voxel ({where}) lies outside the scan of {' x '.join(map(str, shape))} voxels."
                )
        box = mask = None
        if prompts.box is not None:
            ends = np.round(prompts.box.detach().cpu().numpy().astype(np.float64))
            first, past = np.maximum(ends.min(0), 0), np.minimum(ends.max(0) + 1, size)
            if not (first < past).all():
                raise UserError("The box lies outside the scan. Draw it around the structure.")
            box = np.stack([first, past]).astype(int)
        if prompts.mask is not None and bool((prompts.mask >= 0.5).any()):
            mask = prompts.mask.detach().cpu().numpy()
        if not positive.any() and box is None and mask is None:
            raise UserError("Nothing says what is meant. Place at least one click inside the structure, or draw a box.")
        return cls(points[positive], points[~positive], box, mask)

    def places(self) -> np.ndarray:
        """Where the structure is known to be: positive clicks, else the middle of the box or mask, ``[n, 3]``."""
        if len(self.inside):
            return self.inside
        if self.box is not None:
            middle: np.ndarray = (self.box.sum(0, keepdims=True) - 1) / 2
            return middle
        assert self.mask is not None
        result: np.ndarray = np.argwhere(self.mask >= 0.5).mean(0, keepdims=True)
        return result


def _bounds(hints: _Hints, shape: Sequence[int], spacing: np.ndarray, margin: float) -> Bounds:
    """The box of the scan to work on."""
    corners = []
    if len(hints.outside):
        corners += [hints.outside - 0.1 * margin / spacing, hints.outside + 0.1 * margin / spacing]
    if hints.box is not None:
        # Enough around it to see what the surroundings look like.
        around = np.maximum(2, 0.2 * (hints.box[1] - hints.box[0]))
        corners += [hints.box[:1] - around, hints.box[1:] + around]
        margin *= 0.1
    if len(hints.inside):
        corners += [hints.inside - margin / spacing, hints.inside + margin / spacing]
    if hints.mask is not None:
        covered = np.argwhere(hints.mask >= 0.5)
        around = 0.25 * margin / spacing
        corners += [covered.min(0, keepdims=True) - around, covered.max(0, keepdims=True) + around]
    every = np.concatenate(corners)
    least = np.minimum(shape, 2)  # a 2D image has one slice
    first = np.clip(np.floor(every.min(0)), 0, np.array(shape) - least).astype(int)
    past = np.clip(np.ceil(every.max(0)) + 1, first + least, shape).astype(int)
    (a, b), (c, d), (e, f) = np.stack([first, past], axis=1).tolist()
    return (a, b), (c, d), (e, f)


def _segment(region: Region, hints: _Hints, options: GraphCutOptions) -> np.ndarray:
    """The structure on the region's grid, ``[d, h, w]`` boolean."""
    inside, outside = region.voxels(hints.inside), region.voxels(hints.outside)
    seeds = inside if len(inside) else region.voxels(hints.places())
    to_inside, to_outside = region.distance(seeds), region.distance(outside)
    away = np.minimum(np.minimum(options.border * region.from_border, to_outside), 1e6)
    nearness = away / (to_inside + away + 1e-6)
    odds = 2 * options.place * (nearness - 0.5)
    earlier = None if hints.mask is None else region.from_scan(hints.mask)
    if earlier is not None:
        odds += options.mask * (2 * earlier - 1) * _still_valid(earlier, region, inside, outside)
    fixed = _balls(region, inside, outside, options.ball)
    if hints.box is not None:
        fixed[~_inside_box(region, hints.box)] = -CERTAIN
    fixed[~region.measured & (fixed <= 0)] = -CERTAIN
    bins = np.clip((region.image * _BINS).astype(int), 0, _BINS - 1)
    guess = np.exp(-to_inside / options.near_mm) * (nearness > 0.5) * (fixed >= 0)
    other = np.square(1 - nearness) + (fixed < 0)
    found = nearness > 0.5
    for _ in range(options.rounds):
        total = odds + options.look * _intensity_odds(bins, guess * region.measured, other * region.measured)
        total = np.where(fixed != 0, fixed, total)
        found = _connected(minimal_cut(region.image, total, smooth=options.smooth, like=options.like), seeds)
        guess, other = found * np.clip(1.5 * nearness, 0, 1), (~found).astype(float)
    filled: np.ndarray = binary_fill_holes(found) & (fixed >= 0)
    return filled


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
