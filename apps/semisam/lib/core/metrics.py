"""How well a label map agrees with the truth: overlap, and distances between surfaces in millimetres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance


@dataclass(frozen=True)
class LabelScores:
    """Agreement of one structure in one scan.

    A structure missing in prediction *and* truth is perfect agreement: overlaps 1, distances 0. Missing in one of them
    only, the overlaps are 0 and there is no distance to speak of: both distances are NaN.

    Args:
        dice: Dice overlap, 0..1.
        jaccard: intersection over union, 0..1.
        hd95_mm: symmetric 95th percentile Hausdorff distance in mm: the larger of both directions' percentiles.
        assd_mm: average symmetric surface distance in mm: the mean over all surface voxels of both masks.
    """

    dice: float
    jaccard: float
    hd95_mm: float
    assd_mm: float

    @property
    def missed(self) -> bool:
        """Whether only one of prediction and truth has the structure, so that distances are undefined."""
        return math.isnan(self.assd_mm)


def overlap(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Dice and Jaccard of two boolean masks of one shape; both 1 when both masks are empty."""
    both = int(np.count_nonzero(prediction & truth))
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))
    if total == 0:
        return 1.0, 1.0
    return 2 * both / total, both / (total - both)


def score(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> LabelScores:
    """Compare two masks.

    Surface voxels are those a mask loses by one erosion; distances run between their centres. The distances are
    MONAI's, with voxels scaled to mm.

    Args:
        prediction: ``[D, H, W]`` boolean.
        truth: ``[D, H, W]`` boolean.
        spacing: voxel size in mm along D, H, W.

    Raises:
        ValueError: when the shapes differ or the spacing does not fit them.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}")
    if len(spacing) != prediction.ndim or min(spacing) <= 0:
        raise ValueError(f"spacing {tuple(spacing)} does not fit an array of shape {prediction.shape}")
    dice, jaccard = overlap(prediction, truth)
    if not prediction.any() or not truth.any():
        distance = 0.0 if dice == 1.0 else math.nan
        return LabelScores(dice, jaccard, distance, distance)
    box = _union_box(prediction, truth)
    # Batch and channel axes in front. MONAI pads by one voxel, so a mask that ends at the edge has a surface there.
    a, b = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (prediction, truth))
    mm = [float(s) for s in spacing]
    hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95, directed=False, spacing=mm)
    assd = compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=mm)
    return LabelScores(dice, jaccard, float(hd95), float(assd))


def mean_dice(prediction: np.ndarray, truth: np.ndarray, count: int) -> float:
    """Mean Dice over the structures 1..count of two label maps ``[D, H, W]``."""
    return sum(overlap(prediction == value, truth == value)[0] for value in range(1, count + 1)) / count


def _union_box(a: np.ndarray, b: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds both masks; at least one of them is not empty."""
    either = a | b
    box = []
    for axis in range(either.ndim):
        used = np.flatnonzero(either.any(axis=tuple(n for n in range(either.ndim) if n != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)
