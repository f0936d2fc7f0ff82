"""What a session needs of a 3D model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .network import Layout


class CubeEncoder(Protocol):
    """A 3D model that encodes cubes of a scan and answers prompts in them."""

    @property
    def layout(self) -> Layout:
        """Sizes of the network."""
        ...

    def encode_cubes(self, cubes: Tensor) -> Tensor:
        """Features of normalised cubes: ``[N, 1, n, n, n]`` to ``[N, C, g, g, g]`` float32 on the CPU."""
        ...

    def answer(self, features: Tensor, points: Tensor | None, positive: Tensor | None, mask: Tensor | None) -> Tensor:
        """Mask logits ``[1, m, m, m]`` in one cube on the CPU.

        Args:
            features: of the cube, ``[C, g, g, g]``.
            points: clicks ``[P, 3]`` in voxels of the cube, or None.
            positive: ``[P]`` boolean, or None.
            mask: logits so far ``[1, m, m, m]``, or None.
        """
        ...
