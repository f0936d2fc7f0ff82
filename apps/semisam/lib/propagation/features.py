"""Make the features of two scans fit for matching, whatever generalist they come from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.core.filters import box_mean
from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.core.resampling import resize
from lib.generalists import CachedGeneralist, Generalist
from lib.generalists.mind import Mind

UNRELATED = 0.15
"""Mean squared difference of MIND values (0..1) at unrelated places, about. All features are brought to this scale, so
that the matching's smoothness and the confidence mean the same for each."""

_MOST_CHANNELS = 16
_SAMPLES = 20_000
_FINE = 10_000
"""Places from which on a single one describes too little; the grids of foundation models are smooth already."""


def comparable(fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """Few channels on a common scale; MIND's are taken as they are.

    The many channels of a foundation model are reduced to the common principal components of both scans: a working grid
    with hundreds of channels would not fit into memory.

    Args:
        fixed: ``[C, d, h, w]``.
        moving: ``[C, d', h', w']``.

    Returns:
        Both with at most 16 channels; places of one and the other that have nothing to do with each other differ by
        about ``UNRELATED`` (mean of the squares over the channels).
    """
    channels = fixed.shape[0]
    if channels <= _MOST_CHANNELS:
        return fixed, moving
    rows = torch.cat([_some(fixed), _some(moving)]).double()
    mean = rows.mean(dim=0)
    rows -= mean
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    basis = vectors[:, -_MOST_CHANNELS:].flip(1)
    # The sign of an eigenvector is arbitrary: fixed, so that a result does not depend on the library's choice.
    basis = basis * basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)).sign()
    variance = float(values[-_MOST_CHANNELS:].clamp_min(0).sum()) / _MOST_CHANNELS
    scale = (UNRELATED / (2.0 * max(variance, 1e-12))) ** 0.5
    project = (basis * scale).float()
    offset = (mean.float() @ project).view(-1, 1, 1, 1)
    own, other = (torch.einsum("cdhw,ck->kdhw", f, project) - offset for f in (fixed, moving))
    return own, other


def _some(features: Tensor) -> Tensor:
    """Feature vectors of evenly spread places, ``[n, C]``."""
    flat = features.flatten(1)
    return flat[:, :: max(1, flat.shape[1] // _SAMPLES)].T


def encode(generalist: Generalist, image: Tensor, spacing: Sequence[float], device: str) -> Tensor:
    """The generalist's features of a scan, as from ``Generalist.encode``; MIND computes and gives them on ``device``.

    Other generalists have a device of their own, and give features on the CPU.
    """
    return generalist.encode(image.to(device) if generalist.name == Mind.name else image, spacing)


def encoding_grid(scan: Volume, working: Frame, generalist: Generalist) -> Frame:
    """The grid on which a generalist sees a scan.

    MIND reaches so many voxels: it has to see all scans at one spacing, that of the working grid. Other models have a
    spacing of their own, and those that look at slices want the slices there are: they see the scan as it is, and
    encode it once for all purposes.

    Args:
        scan: the scan.
        working: a working grid of the scan.
        generalist: who looks.
    """
    return working if generalist.name == Mind.name else frame_of(scan)


def features_on(grid: Frame, features: Tensor, encoded: Frame) -> Tensor:
    """Features on a working grid over the same extent, or a part of it.

    Args:
        grid: the working grid, of D' x H' x W' voxels.
        features: ``[C, d, h, w]``.
        encoded: the scan's grid that they describe.

    Returns:
        ``[C, D', H', W']``.
    """
    return encoded.with_shape(features.shape[1:]).onto(features, grid)[0]


def surroundings(scan: Volume, frame: Frame, generalist: Generalist, device: str = "cpu") -> Tensor:
    """Features that describe what lies around a place, for comparing places one by one.

    Fine features (more than 10 000 places, MIND's say) are averaged over 6 x 6 x 6 places, on a grid half as fine along
    each axis; coarse ones stay as they are.

    Of a generalist that keeps features on disk but not its own, the averaged ones are kept, an eighth of their size.

    Args:
        scan: the scan.
        frame: its working grid.
        generalist: gives the features.
        device: where MIND computes, and where the result is wanted.

    Returns:
        ``[C, d, h, w]`` over the frame's extent.
    """

    def make(model: Generalist) -> Tensor:
        grid = encoding_grid(scan, frame, model)
        features = encode(model, grid.image(scan.clipped), grid.spacing, device)
        if features[0].numel() <= _FINE:
            return features
        return box_mean(resize(features, [(n + 1) // 2 for n in features.shape[1:]]), 1)

    if isinstance(generalist, CachedGeneralist) and not generalist.own:
        return generalist.derived(make, scan.clipped, f"{frame}; mean of 6 at every second place").to(device)
    return make(generalist).to(device)
