"""How fine a grid has to be for what is outlined.

A structure thinner than a voxel of the working grid is lost on it, whatever a network learns there: its soft label is
nowhere half. How much is lost shows where an outlined label is put on the grid and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import torch

from lib.core.frames import Frame
from lib.core.metrics import overlap

from .prepare import label_map
from .spec import choose_spacing

_ENOUGH = 0.95
"""Mean Dice of what is outlined with itself, put on the grid and back, from which on a finer grid is not worth it."""
_FINER = 2**0.5
"""Times more voxels of a scan from one grid that is tried to the next."""
_MOST_TIMES = 2.0
"""Times more voxels of a scan than the budget at most: so much longer takes a prediction."""
_MARGIN_MM = 20.0
_MOST_LOST = 0.1
"""Share of its volume that a structure may lose on the grid before it counts more."""
_MOST_WEIGHT = 8.0
_TRIES = 6
_VOXELS = 4
"""Voxels of a label for each of the grid along an axis that are looked at, at least: all of a large scan take long."""


@dataclass(frozen=True, eq=False)
class Outline:
    """The part of an outlined scan's label around its structures.

    Args:
        label: ``[D, H, W]`` uint8 along the canonical axes; the structures that it holds are numbered from 1 on.
        frame: maps the label to working grids.
        values: which of the study's structures these are.
    """

    label: np.ndarray
    frame: Frame
    values: tuple[int, ...]

    @classmethod
    def of(cls, frame: Frame, label: np.ndarray) -> Outline | None:
        """The structures of a label, None where it has none.

        Args:
            frame: ``frame_of`` the scan.
            label: the label map ``[D, H, W]`` on the scan's own grid.
        """
        inside = torch.from_numpy(frame.crop(label) > 0)
        if not bool(inside.any()):
            return None
        near = frame.around(inside, _MARGIN_MM)
        part = near.crop(label)
        values = [int(n) for n in np.unique(part) if n > 0]
        numbered = np.searchsorted(values, part, side="right").astype(np.uint8)
        d, h, w = part.shape
        own = replace(near, source_shape=(d, h, w), axes=(0, 1, 2), flips=(False,) * 3, box=((0, d), (0, h), (0, w)))
        return cls(numbered, own, tuple(values))

    def kept(self, spacing: Sequence[float]) -> float:
        """Mean Dice of the structures with themselves, put on a grid and back with their ``weights``, 0..1.

        Args:
            spacing: voxel size of the grid in mm.
        """
        return self._found(spacing)[1]

    def weights(self, spacing: Sequence[float]) -> dict[int, float]:
        """How many times each structure has to count to have its volume again, put on a grid and back.

        Args:
            spacing: voxel size of the grid in mm.

        Returns:
            1 or more by structure; 1 for one that loses little by itself.
        """
        return dict(zip(self.values, self._found(spacing)[0], strict=True))

    def _found(self, spacing: Sequence[float]) -> tuple[list[float], float]:
        """Both of the above."""
        label, grid = self._thinned(spacing)
        soft = grid.one_hot(label, len(self.values) + 1)
        wanted, back = self._volumes(label), grid.labels_back(soft)
        there = self._volumes(back)
        weights, lost = np.ones(len(soft)), there < (1 - _MOST_LOST) * wanted
        for _ in range(_TRIES if lost[1:].any() else 0):
            change = np.sqrt(np.clip((wanted + 1) / (there + 1), 0.5, 2.0))
            weights[1:] = np.where(lost, weights * change, 1.0)[1:].clip(1.0, _MOST_WEIGHT)
            back = label_map(grid, soft, weights.tolist())
            there = self._volumes(back)
        return weights[1:].tolist(), fmean(overlap(back == n, label == n)[0] for n in range(1, len(soft)))

    def _thinned(self, spacing: Sequence[float]) -> tuple[np.ndarray, Frame]:
        """The label, of which several voxels are left for each of the grid's along an axis, and the grid's frame."""
        steps = [max(1, int(s / v / _VOXELS)) for s, v in zip(spacing, self.frame.voxel, strict=True)]
        label = self.label[tuple(slice(step // 2, None, step) for step in steps)]
        d, h, w = label.shape
        x, y, z = (v * step for v, step in zip(self.frame.voxel, steps, strict=True))
        frame = replace(self.frame, source_shape=(d, h, w), box=((0, d), (0, h), (0, w)), voxel=(x, y, z))
        return label, frame.with_spacing(spacing)

    def _volumes(self, label: np.ndarray) -> np.ndarray:
        return np.bincount(label.ravel(order="K"), minlength=len(self.values) + 1).astype(float)


def spacing_for(
    outlines: Sequence[Outline],
    extents: Sequence[Sequence[float]],
    spacings: Sequence[Sequence[float]],
    most_voxels: int,
) -> tuple[float, float, float]:
    """The spacing of ``choose_spacing``, or a finer one where structures would be lost on that.

    Args:
        outlines: of some outlined scans; of a large one, each grid that is tried takes seconds.
        extents: see ``choose_spacing``.
        spacings: see ``choose_spacing``.
        most_voxels: budget of one scan; small structures may have several times as many.
    """
    times = 1.0
    spacing = choose_spacing(extents, spacings, most_voxels)
    while outlines and times * _FINER <= _MOST_TIMES + 1e-6:
        if fmean(outline.kept(spacing) for outline in outlines) >= _ENOUGH:
            break
        times *= _FINER
        finer = choose_spacing(extents, spacings, round(times * most_voxels))
        if finer == spacing:
            break
        spacing = finer
    return spacing


def volume_weights(outlines: Sequence[Outline], spacing: Sequence[float], channels: int) -> tuple[float, ...] | None:
    """How many times each class has to count on a grid for structures thinner than its voxels to be found again.

    Such a structure fills less than half of each voxel, and is nowhere the most probable class, however well a network
    says what share of the voxel it fills.

    Args:
        outlines: see ``spacing_for``.
        spacing: voxel size of the grid in mm.
        channels: structures and background.

    Returns:
        Background first; None where all count alike, as every structure keeps its volume by itself.
    """
    found = [outline.weights(spacing) for outline in outlines]
    weights = [1.0]
    for number in range(1, channels):
        each = [of_scan[number] for of_scan in found if number in of_scan]
        weights.append(round(fmean(each), 3) if each else 1.0)
    return tuple(weights) if max(weights) > 1.0 else None
