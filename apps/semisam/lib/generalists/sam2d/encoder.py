"""What a session needs of a 2D model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lib.generalists.base import PromptKind
from lib.generalists.slices import Canvas, View

from .networks import SliceNetwork


class SliceEncoder(Protocol):
    """A 2D model that encodes slices of a volume and decodes masks on them.

    Attributes:
        prompts: what its mask decoder was trained with.
        network: on ``device``.
        device: where it computes.
    """

    prompts: frozenset[PromptKind]
    network: SliceNetwork
    device: torch.device

    @property
    def min_score(self) -> float:
        """An answer on a neighbouring slice that the network gives less than this is not believed, 0..1."""
        ...

    def canvas(self, shape: Sequence[float], spacing: Sequence[float], view: View) -> Canvas:
        """The canvas of a volume's slices."""
        ...

    def embed(self, slices: Tensor, canvas: Canvas) -> Tensor:
        """Features of slices ``[N, rows, columns]`` in 0..1: ``[N, C, g, g]`` float32 on the device, with padding."""
        ...
