"""A slice answered without weights: a graph cut from a box and points.

Outside the box is background; the points belong to the structure. Inside, three things weigh a pixel: whether it lies
nearer to the points than to the outside, how often its intensity occurs in the structure and beside it, learnt anew
from the first result (GrabCut, Rother et al., SIGGRAPH 2004, https://doi.org/10.1145/1015706.1015720), and the
intensity's jump to its neighbours (Boykov & Jolly, ICCV 2001, https://doi.org/10.1109/ICCV.2001.937505).
``prompting.graph_cut`` does this for a person's clicks in 3D within a second; here thousands of slices are asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter1d

from lib.core.graph_cut import CERTAIN, minimal_cut

from .prompts import SlicePrompt

_BINS = 16


@dataclass(frozen=True)
class CutOptions:
    """Weights of the cut.

    Args:
        place: of the distances to points and outside, log odds at the points.
        look: of the intensities.
        smooth: of the cut between like neighbours.
        like: intensity difference (of 0..1) up to which neighbours are alike.
        around: pixels around the box that show what the surroundings look like.
        rounds: how often intensities are learnt.
    """

    place: float = 3.0
    look: float = 1.5
    smooth: float = 2.0
    like: float = 0.1
    around: int = 4
    rounds: int = 2


def cut_slice(image: np.ndarray, prompt: SlicePrompt, options: CutOptions) -> np.ndarray:
    """The structure on a slice ``[rows, columns]`` of intensities in 0..1, as boolean of the same shape."""
    first = np.maximum(np.array(prompt.low) - options.around, 0)
    past = np.minimum(np.array(prompt.high) + 1 + options.around, image.shape)
    window = (slice(first[0], past[0]), slice(first[1], past[1]))
    cut = np.ascontiguousarray(image[window], dtype=np.float32)
    low, high = np.array(prompt.low) - first, np.array(prompt.high) - first
    in_box = np.zeros(cut.shape, dtype=bool)
    in_box[low[0] : high[0] + 1, low[1] : high[1] + 1] = True
    free = np.ones(cut.shape, dtype=bool)
    free[tuple((prompt.points.numpy() - first).T)] = False
    to_points = distance_transform_edt(free)
    to_outside = distance_transform_edt(np.pad(in_box, 1))[1:-1, 1:-1]
    nearness = to_outside / (to_points + to_outside + 1e-6)
    bins = np.clip((cut * _BINS).astype(int), 0, _BINS - 1)
    place = 2 * options.place * (nearness - 0.5)
    inside, outside = nearness * in_box, 1 - nearness * in_box
    found = in_box
    for _ in range(options.rounds):
        odds = place + options.look * _odds(bins, inside, outside)
        odds = np.where(in_box, odds, -CERTAIN)
        odds[~free] = CERTAIN
        found = minimal_cut(cut, odds, smooth=options.smooth, like=options.like)
        inside, outside = found.astype(float), (~found).astype(float)
    answer = np.zeros(image.shape, dtype=bool)
    answer[window] = found
    return answer


def _odds(bins: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Log odds of each pixel after the weighted histograms of two groups; no intensity alone decides."""
    shares = []
    for weights in (inside, outside):
        counts = gaussian_filter1d(np.bincount(bins.ravel(), weights.ravel(), _BINS), 1.0, mode="nearest")
        shares.append(counts / max(counts.sum(), 1e-9) + 1e-2)
    odds: np.ndarray = np.clip(np.log(shares[0] / shares[1]), -3, 3)[bins]
    return odds
