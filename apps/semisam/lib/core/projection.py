"""A fixed random projection: fewer channels, about the same distances."""

from __future__ import annotations

import torch
from torch import Tensor


def random_projection(features: Tensor, channels: int) -> Tensor:
    """Mix the channels of ``[C, D, H, W]`` to ``[channels, D, H, W]``, the same way each time; fewer stay as they are.

    Distances stay about the same (Johnson and Lindenstrauss, https://doi.org/10.1090/conm/026/737400).
    """
    count = features.shape[0]
    if count <= channels:
        return features
    matrix = torch.randn(count, channels, generator=torch.Generator().manual_seed(0)) / channels**0.5
    return torch.einsum("cdhw,ck->kdhw", features, matrix.to(features.device))
