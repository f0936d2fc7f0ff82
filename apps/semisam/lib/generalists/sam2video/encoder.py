"""What a session needs of a video model."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from .tracker import Piece, Tracker


class FrameEncoder(Protocol):
    """A video model that encodes slices one by one; its tracker carries masks from one to the next.

    Attributes:
        tracker: follows structures through encoded slices.
    """

    tracker: Tracker

    @property
    def size(self) -> int:
        """Side of the network's image."""
        ...

    def encode_windowed(self, slices: Tensor) -> list[Piece]:
        """Encode slices ``[S, H, W]`` whose intensities are in 0..1 already."""
        ...

    def half(self) -> AbstractContextManager[object]:
        """The precision that the network computes in."""
        ...
