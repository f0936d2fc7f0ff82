"""A scan in its own grid, and how other grids lie on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .intensity import clipped

MOST_SHIFT = 0.5
"""How far a label's corners may lie from its scan's, in voxels: headers round."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in its own grid.

    Args:
        array: ``[D, H, W]`` float32, finite; D, H, W are the voxel axes i, j, k in the order of the affine's columns.
            W is 1 for a 2D image. The brightness, for one in colour.
        affine: ``[4, 4]`` voxel index to millimetres in RAS.
        colour: red, green and blue ``[3, D, H, W]`` float32 of a 2D image in colour, else None.
        notes: sentences for the user about how the file was read, where its header contradicts itself or part of it
            was left out; empty as a rule.
        further: the channels after the first one, each ``[D, H, W]`` float32 on the same grid; none as a rule.
        also_at: affines ``[4, 4]`` that other programs take from the same header, where they differ. Labels made with
            these programs lie there, on the same voxels.
    """

    array: np.ndarray
    affine: np.ndarray
    colour: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    also_at: tuple[np.ndarray, ...] = ()
    further: tuple[np.ndarray, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return self.array.shape  # type: ignore[return-value]

    @property
    def flat(self) -> bool:
        """Whether this is a 2D image."""
        return bool(self.array.shape[2] == 1)

    @cached_property
    def clipped(self) -> np.ndarray:
        """The array as all models see it: without outliers, see ``lib.core.intensity``; unchanged if there are none."""
        return clipped(self.array)

    @cached_property
    def all_clipped(self) -> tuple[np.ndarray, ...]:
        """``clipped`` of all channels, the first one first."""
        return self.clipped, *(clipped(each) for each in self.further)

    def channel(self, number: int) -> Volume:
        """One channel as a scan of its own, 0 for the first; the very scan where it has no other."""
        if not self.further:
            return self
        return replace(self, array=(self.array, *self.further)[number], further=())

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along each axis in mm."""
        return spacing_of(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in mm along the three axes of an affine ``[4, 4]``."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def usable(affine: np.ndarray) -> bool:
    """Whether an affine ``[4, 4]`` gives every voxel a place of its own."""
    if not np.isfinite(affine).all():
        return False
    size = np.linalg.norm(affine[:3, :3], axis=0)
    # The volume of a cube of edge 1 whose edges point as the axes do: 0 where they lie in a plane.
    return bool((size > 0).all() and abs(np.linalg.det(affine[:3, :3] / np.where(size > 0, size, 1))) > 1e-3)


def straightened(affine: np.ndarray) -> np.ndarray:
    """The affine ``[4, 4]`` with axes at right angles that is nearest to this one: same origin, same voxel sizes."""
    sizes = np.array(spacing_of(affine))
    left, _, right = np.linalg.svd(affine[:3, :3] / sizes)
    straight = affine.copy()
    straight[:3, :3] = (left @ right) * sizes
    return straight


def corner_shift(affine: np.ndarray, reference: np.ndarray, shape: Iterable[int]) -> float:
    """How far apart the corners of a grid lie under two affines, in voxels of ``reference``; the furthest."""
    moved = np.linalg.inv(reference) @ affine
    corners = _corners(shape)
    return float(np.abs(corners @ (moved - np.eye(4)).T).max())


def _corners(shape: Iterable[int]) -> np.ndarray:
    return np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*shape, 1.0]


@dataclass(frozen=True)
class Placement:
    """How a grid lies on another one of the same voxels: axes swapped and flipped, and moved by whole voxels.

    Args:
        axes: the other grid's axis ``n`` is this one's axis ``axes[n]``.
        flips: the other grid's axes that this one runs against.
        start: the other grid's voxel on which the first voxel of the turned array lies.
    """

    axes: tuple[int, int, int]
    flips: tuple[int, ...]
    start: tuple[int, int, int]

    @classmethod
    def find(
        cls, affine: np.ndarray, shape: tuple[int, ...], reference: np.ndarray, *, flat: bool = False
    ) -> Placement | None:
        """How a grid of ``shape`` under ``affine`` lies on the grid of ``reference``.

        Args:
            affine: ``[4, 4]`` of the grid.
            shape: its three sizes.
            reference: ``[4, 4]`` of the other grid.
            flat: both are 2D images: their thickness does not count.

        Returns:
            None when the voxels are no voxels of the other grid, more than ``MOST_SHIFT`` of a voxel off.
        """
        moved = np.linalg.inv(reference) @ affine
        size = list(shape)
        if flat:
            moved[:3, 2], size[2] = (0, 0, 1), 0
        turn = np.round(moved[:3, :3])
        if not ((np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all()):
            return None
        axes = [int(a) for a in np.abs(turn).argmax(axis=1)]
        flips = tuple(n for n in range(3) if turn[n, axes[n]] < 0)
        # Of an axis that runs backwards, the last voxel comes first.
        last = np.array([shape[axes[n]] - 1 if n in flips else 0 for n in range(3)])
        start = moved[:3, 3] - last
        # Half a voxel off is the same grid, whichever way rounding would go.
        start = np.where(np.abs(start) <= MOST_SHIFT + 1e-6, 0, np.round(start))
        whole = np.eye(4)
        whole[:3, :3], whole[:3, 3] = turn, start + last
        if np.abs((_corners(size) @ (moved - whole).T)[:, :3]).max() > MOST_SHIFT + 1e-6:
            return None
        first = [int(n) for n in start]
        return cls((axes[0], axes[1], axes[2]), flips, (first[0], first[1], first[2]))

    def turned(self, array: np.ndarray) -> np.ndarray:
        """``array`` ``[D, H, W]`` with the other grid's axes (a view)."""
        return np.flip(array.transpose(self.axes), self.flips)
