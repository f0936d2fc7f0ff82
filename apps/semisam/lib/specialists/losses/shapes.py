"""Checks of the shapes that a loss is given: broadcasting would hide a mistake."""

from __future__ import annotations

from torch import Tensor


def check_same_shape(first: Tensor, second: Tensor, weight: Tensor | None = None, *, by_class: bool = False) -> None:
    """Check two maps ``[B, C, ...]`` and a weight ``[B, 1, ...]`` of their voxels; ``by_class`` allows ``[B, C, ...]``.

    Raises:
        ValueError: when their shapes do not fit.
    """
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {tuple(first.shape)} and {tuple(second.shape)}")
    if weight is None or (by_class and weight.shape == first.shape):
        return
    if weight.shape != (first.shape[0], 1, *first.shape[2:]):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not fit maps of shape {tuple(first.shape)}")
