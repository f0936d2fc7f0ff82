"""First, rough placement of a template over a scan, before dense matching.

Scans of one study may show the same anatomy in differently cropped fields of view. Two guesses are compared: the boxes
of both scans show the same region (the template is scaled to the scan's box), or both have true millimetres and the
template is only shifted (the best shift is found by cross-correlation of the features). The guess whose features agree
better after a cheap coarse matching is taken. The features here are always MIND's: it is a look at a few thousand
voxels, far below the resolution that other generalists need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.core.frames import Frame
from lib.core.geometry import Volume
from lib.core.resampling import resize
from lib.generalists.mind import Mind

from .displacement import coarse_displacement, warp

_SEARCH_VOXELS = 16_000
_REACH = 3
"""Of the coarse matching that compares the guesses: with 4 it takes twice as long, and no guess of 42 scans changed."""
_LEAST_OVERLAP = 0.35
_MOST_TIMES_LARGER = 8
"""A template with more than this many times the scan's voxels is not searched (memory): the scan is a mere sliver."""
_MOST_TIMES_SMALLER = 1000
"""Nor one with less than this share of them: at the scan's spacing there is nothing to be seen of it. One of the two
has lengths of another unit in its header, as a rule."""
_SHIFT_MUST_GAIN = 0.9
"""A shift is taken when it lowers the disagreement to this share: it sees less of the scan, so chance helps it."""


@dataclass(frozen=True)
class Placement:
    """Where a template's grid lies on a scan's working grid.

    Args:
        shape: voxels of the template's working grid, its voxels having the scan's working size in this guess.
        offset: position of the template's first voxel on the scan's working grid, in voxels.
    """

    shape: tuple[int, int, int]
    offset: tuple[int, int, int]

    def place(self, values: Tensor, shape: tuple[int, int, int], fill: float = 0.0) -> Tensor:
        """``[C, *self.shape]`` on the scan's grid ``[C, *shape]``, ``fill`` where the template has nothing."""
        if self.shape == shape and self.offset == (0, 0, 0):
            return values
        out = values.new_full((values.shape[0], *shape), fill)
        to, of = self._windows(shape)
        out[:, to[0], to[1], to[2]] = values[:, of[0], of[1], of[2]]
        return out

    def covered(self, shape: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
        """``[1, *shape]`` on a device: 1 where the template has something, else 0."""
        return self.place(torch.ones(1, *self.shape, device=device), shape)

    def _windows(self, shape: tuple[int, int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        to, of = [], []
        for size, own, at in zip(shape, self.shape, self.offset, strict=True):
            first, last = max(0, at), min(size, at + own)
            to.append(slice(first, max(first, last)))
            of.append(slice(first - at, max(first, last) - at))
        return tuple(to), tuple(of)


def find_placement(scan: Frame, scan_image: Tensor, template: Frame, template_scan: Volume) -> Placement:
    """The better of the two guesses.

    Args:
        scan: the scan's frame on the working grid of the matching.
        scan_image: ``[1, *scan.shape]``; its device computes.
        template: the template's frame at ``scan``'s working spacing.
        template_scan: the template itself.
    """
    same_box = Placement(scan.shape, (0, 0, 0))
    ratio = [a / b for a, b in zip(template.extent, scan.extent, strict=True)]
    too_large = math.prod(template.shape) > _MOST_TIMES_LARGER * math.prod(scan.shape)
    too_small = math.prod(scan.shape) > _MOST_TIMES_SMALLER * math.prod(template.shape)
    if too_large or too_small or all(abs(r - 1) < 0.02 for r in ratio):
        return same_box
    template_image = template.image(template_scan.clipped).to(scan_image.device)
    shrink = min(1.0, (_SEARCH_VOXELS / math.prod(scan.shape)) ** (1 / 2 if scan.flat else 1 / 3))
    small_scan = _small(scan.shape, shrink, scan.flat)
    small_template = _small(template.shape, shrink, scan.flat)
    spacing = [e / n for e, n in zip(scan.extent, small_scan, strict=True)]
    mind = Mind()
    fixed = resize(mind.encode(resize(scan_image, small_scan), spacing), small_scan)
    shifted = resize(mind.encode(resize(template_image, small_template), spacing), small_template)
    scaled = resize(mind.encode(resize(template_image, small_scan), spacing), small_scan)

    plain = Placement(small_scan, (0, 0, 0))
    offset = best_shift(fixed, shifted)
    moved = Placement(small_template, offset)
    if _disagreement(fixed, shifted, moved) >= _SHIFT_MUST_GAIN * _disagreement(fixed, scaled, plain):
        return same_box
    factors = [a / b for a, b in zip(scan.shape, small_scan, strict=True)]
    at = [round(o * f) for o, f in zip(offset, factors, strict=True)]
    return Placement(template.shape, (at[0], at[1], at[2]))


def _small(shape: tuple[int, int, int], shrink: float, flat: bool) -> tuple[int, int, int]:
    d, h, w = (max(8, round(n * shrink)) for n in shape)
    return d, h, 1 if flat else w


def _disagreement(fixed: Tensor, moving: Tensor, placement: Placement) -> float:
    """Mean squared feature difference after a coarse matching, over what the template covers."""
    shape = (fixed.shape[1], fixed.shape[2], fixed.shape[3])
    placed = placement.place(moving, shape)
    covered = placement.covered(shape, fixed.device)
    # Uncovered places take the scan's own features, so that nothing there pulls the field.
    placed = torch.where(covered > 0, placed, fixed)
    field = resize(coarse_displacement(fixed, placed, stride=2, reach=_REACH), shape)
    difference = (warp(placed, field) - fixed).square().mean(0, keepdim=True)
    return float((difference * covered).sum() / covered.sum().clamp_min(1))


def best_shift(fixed: Tensor, moving: Tensor) -> tuple[int, int, int]:
    """The whole-voxel offset of ``moving`` on ``fixed`` with the highest normalised cross-correlation.

    Args:
        fixed: features ``[C, D, H, W]``.
        moving: features ``[C, d, h, w]``.

    Returns:
        Position of ``moving``'s first voxel on ``fixed``'s grid; both overlap by at least a third of the smaller one.
    """
    a = fixed - fixed.mean(dim=(1, 2, 3), keepdim=True)
    b = moving - moving.mean(dim=(1, 2, 3), keepdim=True)
    size = [n + m for n, m in zip(a.shape[1:], b.shape[1:], strict=True)]

    def spectrum(values: Tensor) -> Tensor:
        result: Tensor = torch.fft.rfftn(values, s=size, dim=(-3, -2, -1))
        return result

    def correlation(x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = torch.fft.irfftn((spectrum(x) * spectrum(y).conj()).sum(0), s=size, dim=(-3, -2, -1))
        return result

    ones_a, ones_b = torch.ones_like(a[:1]), torch.ones_like(b[:1])
    overlap = correlation(ones_a, ones_b).round()
    energy_a = correlation(a.square().sum(0, keepdim=True), ones_b).clamp_min(1e-6)
    energy_b = correlation(ones_a, b.square().sum(0, keepdim=True)).clamp_min(1e-6)
    score = correlation(a, b) / (energy_a * energy_b).sqrt()
    least = _LEAST_OVERLAP * min(ones_a.numel(), ones_b.numel())
    score = torch.where(overlap >= least, score, torch.full_like(score, -2.0))
    at = torch.unravel_index(score.argmax(), score.shape)
    d, h, w = (int(i) if int(i) < n else int(i) - s for i, n, s in zip(at, a.shape[1:], size, strict=True))
    return d, h, w
