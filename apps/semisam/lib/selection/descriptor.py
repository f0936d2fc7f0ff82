"""What a whole scan looks like to the generalist, as one vector: scans of a study are compared by it.

To find an outlined scan's nearest ones ``propagation.signature`` is enough, which asks no generalist.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.core.projection import random_projection
from lib.generalists import Generalist, describing
from lib.generalists.mind import Mind
from lib.propagation import encoding_grid

_SHAPE = (24, 24, 24)
"""Grid on which MIND sees every scan: low enough for it to describe organs, not noise."""
_CELLS = 4
"""Cells along each axis that features are pooled in."""
_MOST_CHANNELS = 16
_MOMENT = 0.5
"""Weight of the spread of the features in a cell, relative to their mean."""


@torch.no_grad()
def describe(scan: Volume, generalist: Generalist) -> Tensor:
    """Describe a scan for comparison with others of its study.

    Mean and standard deviation of the features in 4 x 4 x 4 cells over the scan's content, each less its mean over the
    cells: what is where counts, not what the whole scan is like.

    Args:
        scan: the scan; orientation, spacing, size and intensity scale may differ from those of the others.
        generalist: gives the features; of many channels, 16 fixed random mixtures are taken.

    Returns:
        ``[F]`` float32 of unit length (zeros for features that are the same everywhere); F is the same for all scans of
        one generalist, at most 2048.
    """
    generalist = describing(generalist, flat=scan.flat)
    frame = frame_of(scan)
    grid = frame.with_shape(_SHAPE) if generalist.name == Mind.name else encoding_grid(scan, frame, generalist)
    features = random_projection(generalist.encode(grid.image(scan.clipped), grid.spacing).float(), _MOST_CHANNELS)
    mean = functional.adaptive_avg_pool3d(features[None], _CELLS)[0]
    square = functional.adaptive_avg_pool3d(features.square()[None], _CELLS)[0]
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    return functional.normalize(torch.cat([_form(mean), _MOMENT * _form(deviation)]), dim=0)


def _form(cells: Tensor) -> Tensor:
    """``[C, 4, 4, 4]`` less the mean of each channel, ``[C * 64]`` of unit length."""
    return functional.normalize((cells - cells.mean(dim=(1, 2, 3), keepdim=True)).flatten(), dim=0)
