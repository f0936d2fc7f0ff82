"""Make the features of two scans fit for matching, whatever generalist they come from."""

from __future__ import annotations

import torch
from torch import Tensor

UNRELATED = 0.15
"""Mean squared difference of MIND values (0..1) at unrelated places, about. All features are brought to this scale, so
that the matching's smoothness and the confidence mean the same for each."""

_MOST_CHANNELS = 16
_SAMPLES = 20_000


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
