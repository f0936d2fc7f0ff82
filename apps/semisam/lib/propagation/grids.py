"""The grids that a matching works on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lib.core.frames import Frame
from lib.core.geometry import Volume

from .affine_placement import AffinePlacement
from .brightness import Brightness, around, standardised
from .placement import Placement


@dataclass(frozen=True, eq=False)
class Grids:
    """What is matched: working grids of a scan and a template, and where the one lies on the other.

    Args:
        scan: the scan's.
        template: the template's.
        place: of the template on the scan.
        volumes: both, whole.
    """

    scan: Frame
    template: Frame
    place: Placement | AffinePlacement
    volumes: tuple[Volume, Volume]

    def brightness(self, structures: Tensor) -> Brightness:
        """Of both on the scan's grid, with the template's structures ``[1, D, H, W]`` there."""
        own, other = (
            standardised(frame.image(volume.clipped), volume).to(structures.device)
            for frame, volume in zip((self.scan, self.template), self.volumes, strict=True)
        )
        return Brightness(own, self.place.place(other, self.scan.shape), around(structures))
