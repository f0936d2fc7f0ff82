"""Where a template lies on a scan, to begin the matching with: as a quick guess has it, or turned and scaled.

Scans of one study may lie turned against each other: their headers say so, or nothing does. Candidates come from the
true directions of both scans and from a search over rotations (``search``). The one whose features agree best with the
scan's after a coarse matching is taken, over what both see; what was there before the search is left where it is as
good.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.core.resampling import resize
from lib.generalists.mind import Mind

from .affine_placement import AffinePlacement, Start, directions, middle_of, place_in_patient
from .base import Template
from .displacement import coarse_displacement, warp
from .improve import improved
from .placement import Placement
from .search import Searcher, View, rotations, tilts, views_of, weight_near

_LEAST_ANGLE = 3.0
"""Degrees by which true directions differ at least from the nearest axes to be a start of their own."""
_VOXELS, _PIXELS = 2_500, 1_600
_MOST_TIMES = 30.0
"""How many times as large as the other one of the two may be: else a header is wrong, or one is a sliver."""
LEAST_EDGE = 8
"""Voxels of a scan along each axis, below which there is nothing to search in."""
_SHARE = 60
"""Of a small scan, voxels to one of the search."""
_MATCHED_VOXELS = 16_000
_REACH = 3
_BEST, _BEST_OF_PICTURES = 3, 8
"""Rotations that are carried on to the coarse matching; more of pictures, of which it costs little."""
_AS_GOOD = 0.02
"""Correlation by which a scan may be below the best rotation and is still taken as it lies."""
_NEAR_QUARTER = 0.3
"""How far a rotation's numbers may be from quarter turns (about 17 degrees) to be tried as these, over the box."""
_MUST_GAIN = 0.97
"""A turned start is taken when it lowers the disagreement to this share."""
_OVERLAP_POWER = 0.5
"""Of the share of the template that lies on the scan, in the disagreement: chance helps what sees little."""


def find_start(scan: Volume, own: Frame, template: Template, guess: Placement, other: Frame) -> Start | None:
    """A start that fits better than a guess along the nearest axes, None when there is none.

    Args:
        scan: the scan.
        own: its working grid.
        template: the template.
        guess: see ``find_placement``.
        other: the template's working grid, of the guess's shape.
    """
    known = guess_as_start(own, other, guess)
    axes = 2 if own.flat else 3
    ratio = math.prod(other.extent[:axes]) / math.prod(own.extent[:axes])
    if not 1 / _MOST_TIMES <= ratio <= _MOST_TIMES or min(scan.shape[:axes]) < LEAST_EDGE:
        return None
    view, template_view = _views(scan, own, template)
    searcher = Searcher(view, template_view)
    told = told_by_headers(scan, own, template.scan, other)
    base = np.eye(3) if told is None else told.matrix[:, :3]
    found = [searcher.best(base @ turn) for turn in rotations(scan)]
    ranked = sorted(found, key=lambda each: -each.score)
    if told is None and found[0].score >= ranked[0].score - _AS_GOOD:
        return None
    around = [searcher.best(tilt @ ranked[0].start.matrix[:, :3]) for tilt in tilts(scan)]
    ranked = sorted([*ranked, *around], key=lambda each: -each.score)
    best = ranked[: _BEST_OF_PICTURES if own.flat else _BEST]
    candidates = [improved(view, template_view, each.start, rigid=True) for each in best]
    candidates.append(improved(view, template_view, candidates[0], rigid=False))
    if told is not None:
        candidates += [told, found[0].start]
    boxed = _over_the_box(candidates[0], own, other_box=frame_of(template.scan))
    candidates += [] if boxed is None else [boxed]
    return _best_of(candidates, known, scan, own, template)


def affine_start(scan: Volume, own: Frame, template: Template, known: Start) -> Start:
    """A known start, turned, scaled and sheared by gradient ascent so that the brightness of both correlates best."""
    view, template_view = _views(scan, own, template)
    return improved(view, template_view, improved(view, template_view, known, rigid=True), rigid=False)


def _views(scan: Volume, own: Frame, template: Template) -> tuple[View, View]:
    """A scan and a template as they are searched in."""
    most = max(500, min(_VOXELS, math.prod(own.shape) // _SHARE))
    return views_of(scan, template, (_PIXELS, most))


def _over_the_box(start: Start, own: Frame, other_box: Frame) -> Start | None:
    """The quarter turns nearest to a start, with the template's box stretched to the scan's; None if none is near."""
    turn = np.round(start.matrix[:, :3])
    if np.abs(start.matrix[:, :3] - turn).max() > _NEAR_QUARTER or abs(np.linalg.det(turn)) != 1:
        return None
    scale = np.array(other_box.extent) / (np.abs(turn) @ np.array(own.extent))
    linear = scale[:, None] * turn
    return Start(np.column_stack([linear, middle_of(other_box) - linear @ middle_of(own)]))


def told_by_headers(scan: Volume, own: Frame, template: Volume, other: Frame) -> Start | None:
    """Where a template lies by both scans' true directions and places, None where these are the nearest axes."""
    if scan.flat:
        return None
    mine, theirs = directions(scan, own), directions(template, other)
    linear = np.linalg.inv(theirs) @ mine
    if np.degrees(Rotation.from_matrix(_straight(linear)).magnitude()) < _LEAST_ANGLE:
        return None
    # A point of the patient: the middle of the scan, and where that lies in the template.
    middle = middle_of(own)
    apart = place_in_patient(scan, own, middle) - place_in_patient(template, other, middle_of(other))
    there = middle_of(other) + np.linalg.inv(theirs) @ apart
    return Start(np.column_stack([linear, there - linear @ middle]))


def _straight(linear: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(linear)
    found: np.ndarray = left @ right
    return found if np.linalg.det(found) > 0 else np.eye(3)


def guess_as_start(own: Frame, other: Frame, guess: Placement) -> Start:
    """A guess of whole voxels as an affine map between the frames."""
    scale = np.array(other.spacing) / np.array(own.spacing)
    corner = np.array([low * size for (low, _), size in zip(own.box, own.voxel, strict=True)])
    other_corner = np.array([low * size for (low, _), size in zip(other.box, other.voxel, strict=True)])
    first = corner + np.array(guess.offset) * np.array(own.spacing)
    return Start(np.column_stack([np.diag(scale), other_corner - scale * first]))


def _best_of(candidates: list[Start], known: Start, scan: Volume, own: Frame, template: Template) -> Start | None:
    """The candidate with the least disagreement after a coarse matching, None for what is known already."""
    shrink = min(1.0, (_MATCHED_VOXELS / math.prod(own.shape)) ** (1 / 2 if own.flat else 1 / 3))
    d, h, w = (max(8, round(n * shrink)) for n in own.shape)
    small = own.with_shape((d, h, 1 if own.flat else w))
    fixed = _encoded(small.image(scan.clipped), small)
    before = _disagreement(fixed, known, small, template)
    scored = [(_disagreement(fixed, each, small, template), n) for n, each in enumerate(candidates)]
    least, best = min(scored)
    return candidates[best] if least < _MUST_GAIN * before else None


def _encoded(image: Tensor, frame: Frame) -> Tensor:
    return resize(Mind().encode(image, frame.spacing), frame.shape)


def template_grid(template: Volume, scan: Frame, start: Start) -> Frame:
    """A grid over the whole template, about as fine as a scan's working grid that it will be laid on."""
    linear = np.abs(start.matrix[:, :3])
    # Of each of the template's axes: the length of the scan's voxels along it, by how far they run along it.
    share = linear**2 / (linear**2).sum(1, keepdims=True)
    size = np.sqrt((linear**2).sum(1))
    return frame_of(template).with_spacing(size * (share @ np.array(scan.spacing)))


def _disagreement(fixed: Tensor, start: Start, small: Frame, template: Template) -> float:
    """Mean squared difference of features after a coarse matching over what both see, more where that is little."""
    grid = template_grid(template.scan, small, start)
    placement: AffinePlacement = start.placement(small, grid)
    shape = small.shape
    covered = placement.covered(shape)
    weight = weight_near(template.label, grid)
    counted = placement.place(weight, shape)
    if float(counted.sum()) == 0:
        return math.inf
    moving = _encoded(placement.extended(grid.image(template.scan.clipped), shape), small)
    moving = torch.where(covered > 0, moving, fixed)
    field = resize(coarse_displacement(fixed, moving, stride=2, reach=_REACH), shape)
    seen = warp(counted, field)
    difference = (warp(moving, field) - fixed).square().mean(0, keepdim=True)
    # In voxels of the scan, what the template has: what of it lies outside the scan does not count as agreement.
    size = math.prod(grid.spacing) / math.prod(small.spacing) / abs(np.linalg.det(start.matrix[:, :3]))
    room = max(1, int(math.prod(shape) / size))
    most = weight.flatten().sort(descending=True).values[:room].sum() * size
    share = min(1.0, float(seen.sum() / most))
    worse: float = max(share, 1e-3) ** -_OVERLAP_POWER
    return float((difference * seen).sum() / seen.sum()) * worse
