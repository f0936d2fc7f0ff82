"""How uncertain one prediction is as a whole: the three measures of FM-ABS, section 2.3.

They are taken in and around the predicted structures, not over the whole scan, where the amount of empty background
decides: on real scans least confidence then has next to nothing to do with the true Dice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lib.core.uncertainty import normalised_entropy
from lib.specialists.ramps import sigmoid_ramp

from .region import around_structures

_MOST_VOXELS = 2**22
"""Voxels that are looked at; of a larger grid every second, third, ... one."""
_LOWER = 0.25
_THRESHOLDS = (0.5, 0.75)


@dataclass(frozen=True)
class ScanUncertainty:
    """Scores of a scan, all 0..1, larger = more uncertain.

    Args:
        least_confidence: 1 - mean of the largest class probabilities that are in their lower quarter; at most
            1 - 1 / classes.
        highest_entropy: mean normalised entropy.
        highest_entropy_ratio: share of voxels whose entropy is above the threshold; in bits, so that 1 is the
            entropy of two equally likely classes, however many there are.
    """

    least_confidence: float
    highest_entropy: float
    highest_entropy_ratio: float


def uncertainty_of(probabilities: Tensor, threshold: float) -> ScanUncertainty:
    """Score one prediction.

    Args:
        probabilities: ``[1 + N, D, H, W]``, background first, sum 1.
        threshold: of a voxel's entropy in bits, see ``threshold_at``; the normalised entropy, for one structure.
    """
    probabilities = _thinned(probabilities)
    found = probabilities[:, around_structures(probabilities)].float()
    largest = found.amax(0)
    entropy = normalised_entropy(found)
    # The lower quarter by count, not by comparison with a quantile: that could leave nothing where many are equal.
    lower = largest.topk(math.ceil(_LOWER * largest.numel()), largest=False).values
    return ScanUncertainty(
        least_confidence=min(1.0, max(0.0, 1.0 - float(lower.mean()))),
        highest_entropy=float(entropy.mean()),
        highest_entropy_ratio=float((entropy * math.log2(len(found)) > threshold).float().mean()),
    )


def threshold_at(progress: float) -> float:
    """The entropy threshold, rising from 0.5 at the start of a study's annotation to 0.75 at its end.

    Args:
        progress: 0..1; clamped.
    """
    first, last = _THRESHOLDS
    return first + (last - first) * sigmoid_ramp(progress, 1.0)


def _thinned(probabilities: Tensor) -> Tensor:
    """Every second, third, ... voxel of a large grid ``[C, D, H, W]``, along its longest axes (a view)."""
    steps = [1, 1, 1]

    def size(axis: int) -> int:
        return -(-probabilities.shape[axis + 1] // steps[axis])

    while size(0) * size(1) * size(2) > _MOST_VOXELS:
        steps[max(range(3), key=size)] += 1
    return probabilities[:, :: steps[0], :: steps[1], :: steps[2]]
