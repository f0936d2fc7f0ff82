"""The part of a scan on which clicks are answered, small enough for an answer in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, uniform_filter
from skimage.graph import MCP_Geometric
from torch import Tensor

from lib.core.resampling import along_axes, interpolation, resize

Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First and past-the-last voxel per axis."""

_THIN = 5
_DIFFUSION_STEPS = 8
_REACH = 1.2
"""How far intensities may lie beyond the window 0..1."""


@dataclass(frozen=True, eq=False)
class Region:
    """A box of a scan, resampled and freed from noise.

    Args:
        bounds: the box in voxels of the scan.
        spacing: voxel size of the region's grid in mm.
        image: intensities ``[d, h, w]`` float32, 0..1 for most tissue around the places of interest.
        slowness: how hard it is to pass a voxel, ``[d, h, w]`` float64, 1 in even tissue and more at edges.
        measured: False where a voxel is padding, ``[d, h, w]`` boolean.
    """

    bounds: Bounds
    spacing: tuple[float, float, float]
    image: np.ndarray
    slowness: np.ndarray
    measured: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the region's grid."""
        return self.image.shape  # type: ignore[return-value]

    @cached_property
    def from_border(self) -> np.ndarray:
        """Way in mm from the region's border, longer through edges, ``[d, h, w]``."""
        inner = np.ones(self.shape, dtype=bool)
        for axis, n in enumerate(self.shape):
            # The faces of a few slices are everywhere: they say nothing.
            if n >= _THIN:
                inner &= np.isin(np.arange(n), (0, n - 1), invert=True).reshape(
                    [-1 if a == axis else 1 for a in range(3)]
                )
        return self.distance(np.argwhere(~inner))

    def distance(self, seeds: np.ndarray) -> np.ndarray:
        """Way in mm to the nearest of the voxels ``[n, 3]``, longer through edges; infinite when there is none."""
        if not len(seeds):
            return np.full(self.shape, np.inf)
        way: np.ndarray = MCP_Geometric(self.slowness, sampling=self.spacing).find_costs(seeds)[0]
        return way

    def voxels(self, points: np.ndarray) -> np.ndarray:
        """Voxels of the region's grid in which voxels ``[n, 3]`` of the scan lie, ``[n, 3]`` int."""
        first, past = np.array(self.bounds).T
        scale = np.array(self.shape) / (past - first)
        placed = np.floor((points - first + 0.5) * scale).astype(int)
        inside: np.ndarray = np.clip(placed, 0, np.array(self.shape) - 1)
        return inside

    def from_scan(self, values: np.ndarray) -> np.ndarray:
        """A map on the scan's grid ``[D, H, W]`` cut and resampled to the region's."""
        cut = np.ascontiguousarray(values[tuple(slice(*b) for b in self.bounds)], dtype=np.float32)
        return np.asarray(resize(torch.from_numpy(cut)[None], self.shape)[0])

    def from_region(self, values: np.ndarray, other: Region) -> np.ndarray:
        """A map on another region's grid, which covers this one's box, resampled to this one's."""
        ends = zip(other.bounds, other.shape, self.bounds, self.shape, strict=True)
        matrices = [interpolation(*each) for each in ends]
        return along_axes(torch.from_numpy(values.astype(np.float32))[None], matrices)[0].numpy()

    def to_scan(self, values: np.ndarray, shape: Sequence[int]) -> Tensor:
        """A map on the region's grid carried to the scan's ``[D, H, W]``, 0 outside."""
        whole = torch.zeros(*shape)
        size = [past - first for first, past in self.bounds]
        inside = resize(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None], size)[0]
        whole[tuple(slice(*b) for b in self.bounds)] = inside
        return whole


def cut_region(
    image: np.ndarray,
    spacing: Sequence[float],
    bounds: Bounds,
    places: np.ndarray,
    *,
    voxels: int,
    edge_weight: float,
    padding: Sequence[float] = (),
) -> Region:
    """Cut a box out of a scan and prepare it.

    Args:
        image: the scan ``[D, H, W]``.
        spacing: its voxel size in mm.
        bounds: the box.
        places: voxels ``[n, 3]`` of interest; intensities around them get the contrast.
        voxels: how many the region's grid may have, about.
        edge_weight: how much slower the strong edges are passed than even tissue.
        padding: values that stand for nothing measured. They have no say in what is usual in the scan, and their edges
            are none: else they would keep what is known of the region's border away from the tissue.
    """
    cut = np.array(image[tuple(slice(*b) for b in bounds)], dtype=np.float32)
    extent = np.array([(past - first) * s for (first, past), s in zip(bounds, spacing, strict=True)])
    own = np.array(cut.shape)
    shape = np.clip(np.round(extent / steps(bounds, spacing, voxels)), np.minimum(own, 4), own).astype(int)
    coarse, measured = _coarse(cut, shape.tolist(), padding)
    grid = extent / shape
    first = np.array([b[0] for b in bounds])
    at = (places - first + 0.5) * np.array(spacing)
    low, high = _window(coarse, grid, at, measured)
    d, h, w = grid.tolist()
    scaled = np.clip((coarse - low) / (high - low), 1 - _REACH, _REACH).astype(np.float32)
    smooth = _denoised(scaled)
    axes = tuple(axis for axis in range(3) if shape[axis] > 1)
    steepness = np.sqrt(sum(np.square(g) for g in np.gradient(smooth, axis=axes)))
    usual = max(float(np.percentile(steepness[measured], 75)), 1e-6)
    slowness = (1 + edge_weight * steepness / usual).astype(np.float64)
    return Region(bounds, (d, h, w), smooth, slowness, measured)


def steps(bounds: Bounds, spacing: Sequence[float], voxels: int) -> np.ndarray:
    """Voxel size in mm ``[3]`` of the grid that ``cut_region`` makes, about.

    An axis that is coarser in the scan than the others need stays as it is. A 2D image is not divided across its plane.
    """
    own = np.array([past - first for first, past in bounds])
    extent = own * np.array(spacing)
    edge = np.sqrt(extent[:2].prod() / voxels) if own[2] == 1 else np.cbrt(extent.prod() / voxels)
    result: np.ndarray = np.maximum(spacing, edge)
    return result


def _coarse(cut: np.ndarray, shape: Sequence[int], padding: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A scan's part resampled to ``shape``, padding filled with the nearest tissue; and where there is none."""
    empty = np.isin(cut, np.array(padding, dtype=np.float32)) if len(padding) else np.zeros(0, dtype=bool)
    if not empty.any() or empty.all():
        return np.asarray(resize(torch.from_numpy(cut)[None], shape)[0]), np.ones(tuple(shape), dtype=bool)
    share = np.asarray(resize(torch.from_numpy((~empty).astype(np.float32))[None], shape)[0])
    total = np.asarray(resize(torch.from_numpy(np.where(empty, np.float32(0), cut))[None], shape)[0])
    nearest = distance_transform_edt(share < 1e-3, return_distances=False, return_indices=True)
    coarse = (total / np.maximum(share, 1e-3))[tuple(nearest)]
    return coarse, share >= 0.5


def _window(image: np.ndarray, spacing: np.ndarray, places: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Intensities ``[low, high]`` that hold nearly all of what is to be told apart around places ``[n, 3]`` (in mm).

    Every distance counts alike, however many voxels lie at it: neither a small structure in wide surroundings nor a
    large one in a narrow region loses its contrast.
    """
    centres = np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(image.shape, spacing, strict=True)], indexing="ij")
    away = np.full(image.shape, np.inf)
    for place in places:
        away = np.minimum(away, sum(np.square(c - p) for c, p in zip(centres, place, strict=True)))
    order = np.argsort(image, axis=None)
    share = np.cumsum(measured.ravel()[order] / (away.ravel()[order] + float(np.square(spacing).sum())))
    low, high = image.ravel()[order[np.searchsorted(share, np.array([0.01, 0.99]) * share[-1])]]
    if high <= low:
        low, high = image.min(), image.max()
    return float(low), float(high) if high > low else float(low) + 1.0


def _denoised(image: np.ndarray) -> np.ndarray:
    """Even out what is as weak as noise and keep edges (Perona & Malik, TPAMI 1990, the exponential conductance)."""
    noise = 1.4826 * float(np.median(np.abs(image - uniform_filter(image, 3)))) + 1e-3
    current = image.copy()
    for _ in range(_DIFFUSION_STEPS):
        change = np.zeros_like(current)
        for axis in range(3):
            step = np.diff(current, axis=axis)
            flow = step * np.exp(-np.square(step / (2 * noise)))
            before = [slice(None)] * 3
            after = [slice(None)] * 3
            before[axis], after[axis] = slice(None, -1), slice(1, None)
            change[tuple(before)] += flow
            change[tuple(after)] -= flow
        # Six neighbours: a seventh is the largest step that cannot overshoot.
        current += change / 7
    return current
