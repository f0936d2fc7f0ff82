"""The voxels over which a prediction's uncertainty is averaged: in and around its structures."""

from __future__ import annotations

from torch import Tensor

from lib.core.uncertainty import inside_and_around

_LIKELIEST = 0.01
"""Share of the voxels that count where no structure is predicted: those where one is likeliest."""


def around_structures(probabilities: Tensor) -> Tensor:
    """The voxels in and around the predicted structures; where none is predicted, those where one is likeliest.

    A scan is mostly background that is certain. Measures over all of it would rank scans by how much of it there is.

    Args:
        probabilities: ``[1 + N, D, H, W]``, background first.

    Returns:
        ``[D, H, W]`` boolean, never empty.
    """
    inside, around = inside_and_around(probabilities)
    if bool(inside.any()):
        return around
    foreground = 1.0 - probabilities[0].float().flatten()
    count = max(1, round(_LIKELIEST * foreground.numel()))
    likely = inside.flatten()
    likely[foreground.topk(count).indices] = True
    return likely.view(inside.shape)
