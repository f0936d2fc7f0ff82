"""Clicks without weights: a graph cut over how far a voxel lies from the clicks and how it looks.

Each voxel is weighed by three things: whether its way to a positive click is shorter than to a negative one or to the
border of the region, ways through edges being longer (geodesic segmentation, Bai & Sapiro, ICCV 2007,
https://doi.org/10.1109/ICCV.2007.4408931); how much more often its intensity occurs inside than outside, learnt anew
from its own first result (GrabCut, Rother et al., SIGGRAPH 2004, https://doi.org/10.1145/1015706.1015720); and, if
given, the previous mask. A minimal cut then puts the border where few like neighbours are parted (Boykov & Jolly, ICCV
2001, https://doi.org/10.1109/ICCV.2001.937505).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from cachetools import LRUCache
from torch import Tensor

from lib.core.intensity import padding_in, without_outliers
from lib.generalists.base import PromptKind, Prompts

from .before import FoundBefore
from .border import smooth_border, soft
from .cut import CutOptions, Evidence, cut
from .growth import ENOUGH, GAIN, LARGE_MM, MARGINS_MM, edge_support
from .hints import Hints, bounds_around
from .inside_box import ON_EDGES, REACHES, inscribed, reach
from .region import Bounds, Region, cut_region, steps

_MARGINS_KEPT = 64


@dataclass(frozen=True)
class GraphCutOptions:
    """How finely is worked, and the weights.

    Args:
        search: size of the grid on which the extent of the structure is looked for, in voxels.
        voxels: size of the grid of an answer. The time depends on both.
        margins_mm: how far from the positive clicks the structure may reach, one after the other.
        around: what is looked at around an answer that is made finer, as a share of its size.
        finer: how much smaller voxels have to become for that.
        weights: of the cuts.
    """

    search: int = 30_000
    voxels: int = 120_000
    margins_mm: tuple[float, ...] = MARGINS_MM
    around: float = 0.15
    finer: float = 0.8
    weights: CutOptions = field(default_factory=CutOptions)


class GraphCut:
    """Segments what it is pointed at, by intensities and edges alone.

    Args:
        options: grids and weights.
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


@dataclass(frozen=True, eq=False)
class _First:
    """An answer on a coarse grid.

    Args:
        region: where.
        evidence: what was known.
        inside: the answer ``[d, h, w]``, boolean.
    """

    region: Region
    evidence: Evidence
    inside: np.ndarray


class GraphCutSession:
    """A scan that waits for prompts.

    On a coarse grid the region of search grows as long as that puts more of the answer's surface on edges
    (``growth``). The answer is made on a finer grid. Where that still is much coarser than the scan, as for a large
    organ, the region is cut to the answer and its surroundings, and a last cut on a finer grid finds the border.
    """

    def __init__(self, image: np.ndarray, spacing: Sequence[float], options: GraphCutOptions) -> None:
        self._image = image
        self._spacing = spacing
        self._options = options
        self._padding = padding_in(image)
        self._margins: LRUCache[bytes, float] = LRUCache(_MARGINS_KEPT)
        self._before = FoundBefore()
        self._hollow_boxes: LRUCache[bytes, bool] = LRUCache(_MARGINS_KEPT)

    @property
    def bytes(self) -> int:
        """Memory that the session takes."""
        return self._image.nbytes + self._before.bytes

    def segment(self, prompts: Prompts) -> Tensor:
        """Probability of the structure that the prompts mean, ``[D, H, W]`` in 0..1; raises UserError without any."""
        if prompts.mask is not None:
            prompts = replace(prompts, mask=self._before.of(prompts.mask.detach().cpu()))
        hints = Hints.of(prompts, self._image.shape)
        if hints.box is not None and not len(hints.inside):
            hints, first = self._in_box(hints, hints.box)
        else:
            first = self._whole(hints)
        region, inside = self._finer(first, hints)
        answer = region.to_scan(smooth_border(inside, region.spacing, self._spacing), self._image.shape)
        # The next cut goes on from what this one has found: what has drawn the border in must not do so twice.
        self._before.note(answer, region.to_scan(soft(inside), self._image.shape))
        return answer

    def _whole(self, hints: Hints) -> _First:
        """The answer on the grid of the whole region of search."""
        margin = self._margin(hints)
        bounds = hints.bounds(self._image.shape, self._spacing, margin)
        return self._first(hints, bounds, self._options.voxels, large=margin >= LARGE_MM)

    def _in_box(self, hints: Hints, box: np.ndarray) -> tuple[Hints, _First]:
        """The answer to a box without clicks inside, and the hints it is an answer to."""
        filling = inscribed(self._image.shape, self._spacing, box) if hints.mask is None else hints.mask
        middle = tuple(np.floor(hints.places()[0]).astype(int))
        alone = None
        hollow = not filling[middle] >= 0.5
        if not hollow:
            hollow, alone = self._hollow(box)
        bare = hints.mask is None and not len(hints.outside)
        if hollow:
            hints = replace(hints, mask=filling, all_over=True)
        return hints, alone if alone is not None and bare else self._whole(hints)

    def _hollow(self, box: np.ndarray) -> tuple[bool, _First | None]:
        """Whether a box is drawn around something that has another structure in its middle, as the myocardium has.

        What is in the middle then ends before the sides of the box, and what fills the box ends on edges as well. Such
        a box is answered with all that fills it; a click outside takes the cavity away.

        Returns:
            Also the answer to the box alone, where it had to be made for this.
        """
        key = box.tobytes()
        if key in self._hollow_boxes:
            return self._hollow_boxes[key], None
        nowhere = np.zeros((0, 3))
        answer = self._whole(Hints(nowhere, nowhere, box, None))
        hollow = reach(answer.region, answer.inside, box) < REACHES
        if hollow:
            filling = inscribed(self._image.shape, self._spacing, box)
            other = self._whole(Hints(nowhere, nowhere, box, filling, all_over=True))
            hollow = edge_support(other.region, other.inside) >= ON_EDGES
            answer = other if hollow else answer
        self._hollow_boxes[key] = hollow
        return hollow, answer

    def _margin(self, hints: Hints) -> float:
        """How far from the clicks the structure may reach, in mm: the least that larger ones do not better.

        The first click decides it. A click that corrects an answer must not make the structure another one.
        """
        margins = self._options.margins_mm
        if not len(hints.inside) or hints.box is not None:
            return margins[0]
        click = Hints(hints.inside[:1], np.zeros((0, 3)), None, None)
        key = click.inside.tobytes()
        if key not in self._margins:
            self._margins[key] = self._grown(click, margins)
        return self._margins[key]

    def _grown(self, click: Hints, margins: Sequence[float]) -> float:
        best, reached, last = margins[0], -1.0, None
        for margin in margins:
            bounds = click.bounds(self._image.shape, self._spacing, margin)
            if bounds == last:  # the whole scan
                break
            last = bounds
            first = self._first(click, bounds, self._options.search, large=margin >= LARGE_MM)
            support = edge_support(first.region, first.inside)
            if support <= reached + GAIN:
                break
            best, reached = margin, support
            if support >= ENOUGH:
                break
        return best

    def _first(self, hints: Hints, bounds: Bounds, voxels: int, *, large: bool) -> _First:
        region = self._region(hints, bounds, voxels)
        evidence = Evidence.of(region, hints, self._options.weights, large=large)
        inside = cut(region, evidence, hints, self._options.weights)
        return _First(region, evidence, inside)

    def _finer(self, first: _First, hints: Hints) -> tuple[Region, np.ndarray]:
        """The answer on a finer grid, if there is one, and its region."""
        bounds = self._around(first, hints)
        becomes = steps(bounds, self._spacing, self._options.voxels)
        if (becomes > self._options.finer * np.array(first.region.spacing)).all():
            return first.region, first.inside
        finer = self._region(hints, bounds, self._options.voxels)
        evidence = first.evidence.carried(first.region, first.inside, finer, hints)
        return finer, cut(finer, evidence, hints, self._options.weights)

    def _around(self, first: _First, hints: Hints) -> Bounds:
        """The box of the first answer, the clicks, and some surroundings, in voxels of the scan."""
        begin, past = np.array(first.region.bounds).T
        size = (past - begin) / np.array(first.region.shape)
        corners = [hints.inside, hints.outside + 1, hints.outside, hints.inside + 1]
        if first.inside.any():
            found = np.argwhere(first.inside)
            corners += [begin + found.min(0, keepdims=True) * size, begin + (found.max(0, keepdims=True) + 1) * size]
        every = np.concatenate(corners)
        low, high = every.min(0), every.max(0)
        free = np.maximum(self._options.around * (high - low), 3 * size)
        return bounds_around(np.maximum(low - free, begin), np.minimum(high + free, past), self._image.shape)

    def _region(self, hints: Hints, bounds: Bounds, voxels: int) -> Region:
        places = hints.places()
        return cut_region(
            self._image,
            self._spacing,
            bounds,
            places,
            voxels=voxels,
            edge_weight=self._options.weights.edge_weight,
            padding=self._padding_without(places),
        )

    def _padding_without(self, places: np.ndarray) -> tuple[float, ...]:
        """The scan's padding, unless it is what a person has pointed at."""
        at = np.clip(np.rint(places).astype(int), 0, np.array(self._image.shape) - 1)
        meant = self._image[tuple(at.T)]
        return tuple(value for value in self._padding if not (meant == value).any())
