"""Search for where a template lies on a scan: turned, moved and scaled, on grids of a few thousand voxels.

For each of many rotations, the shift with the best normalised cross-correlation over what both scans see is found by
Fourier transforms (Padfield, "Masked object registration in the Fourier domain", IEEE TIP 2012,
https://doi.org/10.1109/TIP.2011.2181402). The best few are improved by gradient ascent on the same measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation
from torch import Tensor

from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume

from .affine_placement import Start, middle_of
from .base import Template

_LARGER = 3.0
"""Times as large as the scan as a template may be without costing more."""
_BORDER = 0.05
"""Share of a scan's faces that padding takes up at least."""
_STEP = 20.0
"""Degrees from one rotation to the next."""
_SOME, _MUCH_MORE = 0.02, 2.0
"""Share of padding that does not matter, and how many times as much as in the other scan is much."""
_THICK = 1.8
"""How many times as thick as wide voxels are from which on slices are turned in their plane above all."""
_NEAR_MM, _NEAR, _FAR_WEIGHT = 20.0, 0.5, 0.1
"""How far from the structures a place counts in mm, at least, and as a share of their size; and the least it counts."""
_LEAST_OVERLAP = 0.4
OVERLAP_POWER = 0.5
"""Of the share of the template that a scan shows, in the score: chance helps what sees little."""
FLOOR = 0.02
"""Added to variances of values whose variance is 1 as a whole: places without contrast agree with nothing."""
_SCALES = (1.0, 0.73, 1.37)
"""Of pictures, whose true size nobody knows."""


@dataclass(frozen=True, eq=False)
class View:
    """A scan as the search sees it.

    Args:
        frame: cubes, in all but a flat one.
        values: ``[1, D, H, W]``, most within -2..2.
        seen: ``[1, D, H, W]`` in 0..1: how much each place counts, 0 where nothing was measured.
    """

    frame: Frame
    values: Tensor
    seen: Tensor


@dataclass(frozen=True, eq=False)
class Candidate:
    """A start that was found.

    Args:
        start: where the template lies.
        score: normalised cross-correlation over what both see, less where that is little.
    """

    start: Start
    score: float


def views_of(scan: Volume, template: Template, most: tuple[int, int]) -> tuple[View, View]:
    """Scan and template on cubes of one size; of the template, what lies near its structures counts most.

    Args:
        scan: the scan.
        template: the template.
        most: pixels over a 2D image in all, and voxels over a scan; fewer where the template is much larger.
    """
    both = (scan, template.scan)
    axes = 2 if scan.flat else 3
    sizes = [math.prod(frame_of(each).extent[:axes]) for each in both]
    edge = (max(sizes[0], sizes[1] / _LARGER) / most[axes == 3]) ** (1 / axes)
    frames = [_cubes(each, edge) for each in both]
    empty = [_empty(each, frame) for each, frame in zip(both, frames, strict=True)]
    # Padding of which only one of the two has much is not part of the body: it is what nobody has measured.
    share = [float(each.mean()) for each in empty]
    seen = [
        (empty[n] < 0.5).float() if share[n] > _MUCH_MORE * share[1 - n] + _SOME else torch.ones_like(empty[n])
        for n in (0, 1)
    ]
    mine, theirs = (
        View(frame, _described(frame.image(each.clipped), inside), inside)
        for each, frame, inside in zip(both, frames, seen, strict=True)
    )
    return mine, View(theirs.frame, theirs.values, theirs.seen * weight_near(template.label, theirs.frame))


def weight_near(label: np.ndarray, frame: Frame) -> Tensor:
    """How much each place of a template counts for its start, ``[1, D, H, W]`` in 0..1: near its structures most."""
    inside = frame.one_hot((label > 0).astype(np.uint8), 2)[1].numpy()
    inside = inside >= min(0.5, 0.5 * float(inside.max()))
    places = np.argwhere(inside)
    if not len(places):
        return torch.ones(1, *frame.shape)
    axes = 2 if frame.flat else 3
    sides = (np.ptp(places, axis=0) + 1)[:axes] * np.array(frame.spacing)[:axes]
    far = max(_NEAR_MM, _NEAR * float(np.prod(sides) ** (1 / axes)))
    distance = distance_transform_edt(~inside, sampling=frame.spacing)
    return torch.from_numpy(np.maximum(_FAR_WEIGHT, np.exp(-((distance / far) ** 2)))).float()[None]


def _cubes(scan: Volume, edge: float) -> Frame:
    frame = frame_of(scan).with_spacing([edge] * 3)
    shape = [max(4, n) for n in frame.shape]
    return frame.with_shape([*shape[:2], 1] if scan.flat else shape)


def _empty(scan: Volume, frame: Frame) -> Tensor:
    """Share of each voxel that is padding, ``[1, D, H, W]``: the least or the largest value where it borders a scan."""
    array, faces = scan.array, [(0, -1)] * (2 if scan.flat else 3)
    edges = [np.take(scan.array, ends, axis) for axis, ends in enumerate(faces)]
    empty = np.zeros(array.shape, dtype=bool)
    for value in (array.min(), array.max()):
        if sum(np.count_nonzero(each == value) for each in edges) >= _BORDER * sum(each.size for each in edges):
            empty |= array == value
    return frame.image(empty)


def _described(values: Tensor, seen: Tensor) -> Tensor:
    """Brightness, as it is compared: of what is seen, mean 0 and deviation 1."""
    inside = values[seen > 0] if bool(seen.any()) else values.flatten()
    low, high = (float(q) for q in torch.quantile(inside, torch.tensor([0.02, 0.98])))
    values = values.clamp(low, high)
    values = (values - inside.clamp(low, high).mean()) / inside.clamp(low, high).std().clamp_min(1e-6)
    return values


def rotations(scan: Volume) -> list[np.ndarray]:
    """Rotations ``[3, 3]`` to try, first none: all of the circle in the plane of slices, and about other axes."""
    voxel = frame_of(scan).voxel
    circle = np.arange(0, 360, _STEP)
    if scan.flat:
        return [_about(2, angle) * scale for scale in _SCALES for angle in circle]
    across = int(np.argmax(voxel))
    found = [_about(across, angle) for angle in circle]
    others = [n for n in range(3) if n != across]
    if max(voxel) >= _THICK * sorted(voxel)[1]:
        return found + tilts(scan)
    # Less closely: the best one's neighbours are tried afterwards, see ``tilts``.
    return found + [_about(n, angle) for n in others for angle in circle[2::2]] + tilts(scan)


def tilts(scan: Volume) -> list[np.ndarray]:
    """Small rotations about each axis in the plane of slices."""
    if scan.flat:
        return []
    across = int(np.argmax(frame_of(scan).voxel))
    return [_about(n, angle) for n in range(3) if n != across for angle in (-_STEP, _STEP)]


def _about(axis: int, degrees: float) -> np.ndarray:
    turn: np.ndarray = Rotation.from_rotvec(np.eye(3)[axis] * math.radians(degrees)).as_matrix()
    return turn


class Searcher:
    """Finds shifts for rotations of one template over one scan."""

    def __init__(self, scan: View, template: View) -> None:
        self.scan, self.template = scan, template
        self._own: dict[tuple[int, ...], list[Tensor]] = {}

    def _spectra(self, size: tuple[int, ...]) -> list[Tensor]:
        """Of the scan: where it was measured, its values, and their squares."""
        if size not in self._own:
            scan = self.scan
            parts = torch.cat([scan.seen, scan.seen * scan.values, scan.seen * scan.values.square()])
            self._own[size] = list(torch.fft.rfftn(parts, s=size, dim=(1, 2, 3)))
        return self._own[size]

    def best(self, linear: np.ndarray) -> Candidate:
        """The best shift for a linear map ``[3, 3]`` from the scan's mm to the template's."""
        scan, template = self.scan, self.template
        step = np.array(scan.frame.spacing)
        # The template, turned, on a grid of the scan's voxels around its own middle.
        inverse = np.linalg.inv(linear)
        extent = np.abs(inverse) @ np.array(template.frame.extent)
        shape = [max(1, math.ceil(e / s - 0.25)) for e, s in zip(extent, step, strict=True)]
        if scan.frame.flat:
            shape[2] = 1
        centre = step * (np.array(shape) - 1) / 2
        # Mm from the grid's first centre to mm in the template's frame.
        start = np.column_stack([linear, middle_of(template.frame) - linear @ centre])
        grid_voxels = Start(start).placement(_plain(scan.frame, shape), template.frame)
        there = grid_voxels.extended(template.values, (shape[0], shape[1], shape[2]))
        seen = grid_voxels.extended(template.seen, (shape[0], shape[1], shape[2]))
        mask = grid_voxels.covered((shape[0], shape[1], shape[2])) * seen
        score, at = self._correlated(there, mask)
        # The turned grid's first voxel lies at `at` on the scan's grid.
        corner = np.array([low * size for (low, _), size in zip(scan.frame.box, scan.frame.voxel, strict=True)])
        first = corner + (np.array(at) + 0.5) * step
        shift = middle_of(template.frame) - linear @ (first + centre)
        return Candidate(Start(np.column_stack([linear, shift])), score)

    def _correlated(self, values: Tensor, mask: Tensor) -> tuple[float, tuple[int, int, int]]:
        """The best masked correlation over all shifts, and the shift in voxels."""
        wanted = [n + m for n, m in zip(self.scan.values.shape[1:], values.shape[1:], strict=True)]
        last = 1 if self.scan.frame.flat else next_fast_len(wanted[2], real=True)
        size = (next_fast_len(wanted[0], real=True), next_fast_len(wanted[1], real=True), last)
        ones, own, squares = self._spectra(size)

        def together(a: Tensor, b: Tensor) -> Tensor:
            found: Tensor = torch.fft.irfftn(a * b.conj(), s=size)
            return found

        parts = torch.cat([mask, mask * values, mask * values.square()])
        mine, theirs, theirs2 = torch.fft.rfftn(parts, s=size, dim=(1, 2, 3))
        count = together(ones, mine)
        inside = count.clamp_min(1.0)
        a, b = together(own, mine), together(ones, theirs)
        cross = together(own, theirs) - a * b / inside
        va = (together(squares, mine) - a * a / inside).clamp_min(0)
        vb = (together(ones, theirs2) - b * b / inside).clamp_min(0)
        floor = FLOOR * inside
        score = cross / ((va + floor) * (vb + floor)).sqrt()
        share = count / most_seen(self.scan, mask)
        score = score * share.clamp(0, 1).pow(OVERLAP_POWER)
        score = torch.where(share >= _LEAST_OVERLAP, score, torch.full_like(score, -2.0))
        at = torch.unravel_index(score.argmax(), score.shape)
        sizes = zip(at, self.scan.values.shape[1:], size, strict=True)
        places = [int(i) if int(i) < n else int(i) - s for i, n, s in sizes]
        return float(score.max()), (places[0], places[1], places[2])


def _plain(frame: Frame, shape: Sequence[int]) -> Frame:
    """A grid of a frame's voxels whose first centre is the origin of its mm."""
    step = frame.spacing
    low = [-0.5 * s / v for s, v in zip(step, frame.voxel, strict=True)]
    box = [(a, a + n * s / v) for a, n, s, v in zip(low, shape, step, frame.voxel, strict=True)]
    return replace(frame, box=(box[0], box[1], box[2]), shape=(shape[0], shape[1], shape[2]))  # type: ignore[arg-type]


def most_seen(scan: View, weight: Tensor) -> float:
    """Of a template's weights, how much a scan can show at best: a small one has not room for all.

    A picture, whose true size nobody knows, is expected to show all: else a template that is laid too large would count
    as well seen.
    """
    if scan.frame.flat:
        return max(1e-3, float(weight.sum()))
    room = max(1, int(scan.seen.sum()))
    return float(weight.flatten().sort(descending=True).values[:room].sum().clamp_min(1e-3))
