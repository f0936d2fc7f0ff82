"""Small scans with known structures, for tests."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from lib.core.geometry import Volume


def blobs(
    shape: tuple[int, int, int] = (40, 44, 36),
    *,
    seed: int = 0,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
) -> tuple[Volume, np.ndarray]:
    """A body with two bright organs (labels 1 and 2) in noise; ``centre`` shifts the organs by voxels.

    The texture inside the organs is the same for all seeds, the noise is not.
    """
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))
    middle = (np.array(shape, dtype=np.float32) - 1) / 2

    def ball(at: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        place = middle + np.array(at) * np.array(shape) + np.array(centre)
        distance = ((grid - place[:, None, None, None]) / np.array(radii)[:, None, None, None]) ** 2
        return distance.sum(0) < 1

    body = ball((0, 0, 0), (shape[0] * 0.45, shape[1] * 0.45, shape[2] * 0.48))
    first = ball((-0.16, 0.02, 0), (7, 9, 8))
    second = ball((0.2, -0.05, 0.05), (5, 6, 7))
    label = np.zeros(shape, np.uint8)
    label[first] = 1
    label[second] = 2
    array = 20.0 * body + 60.0 * first + 100.0 * second
    array = gaussian_filter(array, 0.7) + np.random.default_rng(seed).normal(0, 3, shape)
    affine = np.diag([*spacing, 1.0])
    return Volume(array.astype(np.float32), affine), label


def texture(
    seed: int, *, shape: tuple[int, int, int] = (96, 88, 80), still: int | None = None
) -> tuple[Volume, np.ndarray]:
    """A scan with a small structure (1) in a large body of one anatomy; each seed is another patient.

    Nothing moves along the axis ``still``.
    """
    anatomy = np.random.default_rng(0)
    array = sum(gaussian_filter(anatomy.normal(size=shape), width) * width**1.5 for width in (1.5, 3, 6)) * 20
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))
    label = (((grid - np.array([60, 34, 45]).reshape(3, 1, 1, 1)) / 6) ** 2).sum(0) < 1
    array += 30 * label
    patient = np.random.default_rng(seed)
    for axis in range(3):
        field = gaussian_filter(patient.normal(size=shape), 10)
        grid[axis] += 0 if axis == still else 4 * field / np.abs(field).max()
    moved = map_coordinates(array, grid, order=1, mode="nearest") + patient.normal(0, 2, shape)
    inside = map_coordinates(label.astype(np.uint8), grid, order=0)
    return Volume(moved.astype(np.float32), np.diag([1.5, 1.5, 1.5, 1.0])), inside


def dice(a: np.ndarray, b: np.ndarray, value: int) -> float:
    """Dice of one label value."""
    return 2.0 * float(((a == value) & (b == value)).sum()) / max(1.0, float((a == value).sum() + (b == value).sum()))


def sheet(shape: tuple[int, int, int], thickness: float) -> np.ndarray:
    """A slanting sheet of ``thickness`` voxels near the end of the first axis, ``[D, H, W]`` boolean."""
    x, y, z = np.meshgrid(*[np.arange(n) - n / 2 for n in shape], indexing="ij")
    across = (x + 0.35 * y + 0.25 * z - 0.3 * shape[0]) / np.sqrt(1 + 0.35**2 + 0.25**2)
    return (np.abs(across) < thickness / 2) & (np.abs(y) < shape[1] / 4) & (np.abs(z) < shape[2] / 4)
