"""A scan as a generalist sees it during a training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ScanView:
    """A scan on the specialist's grid.

    Args:
        image: intensities as they are stored, ``[1, D, H, W]`` float32.
        spacing: voxel size in mm.
        colour: red, green and blue in 0..255, ``[3, D, H, W]`` float32, of a 2D image in colour; else None.
    """

    image: Tensor
    spacing: tuple[float, float, float]
    colour: Tensor | None = None

    def seen_by(self, model: object) -> Tensor:
        """What a promptable model is to be shown, in colour where it can see colours (``colours``)."""
        return self.colour if self.colour is not None and getattr(model, "colours", False) else self.image
