"""What every generalist offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Generalist(Protocol):
    """A frozen model that describes every place of a scan by a feature vector.

    Spacing, intensity range and window size a model needs are its own business: callers hand in a scan as it is.
    """

    name: str

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """Describe a scan.

        Args:
            image: ``[1, D, H, W]`` float32 in canonical axes (RAS), any intensity scale.
            spacing: voxel size in mm along D, H, W.

        Returns:
            ``[C, d, h, w]`` float32 features on a grid that covers the same extent from edge to edge
            (``d, h, w`` may be smaller than ``D, H, W``).
        """
        ...
