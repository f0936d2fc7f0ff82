"""A scan with its label, as a training draws windows from it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sample:
    """A scan to learn from, on the specialist's grid.

    Args:
        image: ``[inputs, D, H, W]`` as ``prepare`` gives it.
        target: soft labels ``[1 + N, D, H, W]``, sum 1.
        weight: how much each voxel counts, ``[1, D, H, W]`` in 0..1.
        extra: further maps ``[K, D, H, W]`` to cut alike, the same K for all scans, or None.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    extra: Tensor | None = None
