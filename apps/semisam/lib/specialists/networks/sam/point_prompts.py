"""Points that a segmentation gives to a promptable network: SC-SAM, equation 2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POINTS = 5
"""Points inside a structure, and as many outside it (SC-SAM, section 2)."""
INSIDE, OUTSIDE, NONE = 1, 0, -1
"""What a point says, in SAM's own numbers. ``NONE``: there is no point, as nothing is inside (or outside)."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points for every class of every slice.

    Args:
        places: ``[N, C, P, 2]``: column, then row (x, y), as shares 0..1 of the slice's width and height.
        kinds: ``[N, C, P]``: ``INSIDE``, ``OUTSIDE`` or ``NONE``.
    """

    places: Tensor
    kinds: Tensor

    def part(self, low: int, high: int) -> Points:
        """Those of the slices from ``low`` to before ``high``."""
        return Points(self.places[low:high], self.kinds[low:high])

    def pixels(self, height: int, width: int) -> Tensor:
        """The places in an image whose pixel centres are whole numbers, the slice taking ``height`` x ``width``."""
        return self.places * self.places.new_tensor([width, height]) - 0.5


def points_of(
    classes: Tensor, channels: int, *, generator: torch.Generator | None = None, count: int = POINTS
) -> Points:
    """Points inside and outside each class of a segmentation.

    Args:
        classes: ``[N, rows, columns]`` integers 0..C-1, background 0.
        channels: C.
        generator: draws the points (CPU); None spreads them evenly over the pixels in reading order, always alike.
        count: points inside, and as many outside.
    """
    number, rows, columns = classes.shape
    inside = (classes[:, None] == torch.arange(channels, device=classes.device)[:, None, None]).flatten(2)
    # The pixels of the class in reading order, then all others.
    order = inside.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    held = inside.sum(dim=-1, keepdim=True)
    if generator is None:
        share = ((torch.arange(count) + 0.5) / count).expand(number, channels, 2, count)
    else:
        share = torch.rand(number, channels, 2, count, generator=generator)
    share = share.to(classes.device)
    first = torch.minimum((share[:, :, 0] * held).long(), (held - 1).clamp_min(0))
    free = rows * columns - held
    second = held + torch.minimum((share[:, :, 1] * free).long(), (free - 1).clamp_min(0))
    pixel = order.gather(-1, torch.cat([first, second.clamp_max(rows * columns - 1)], dim=-1))
    column, row = (pixel % columns + 0.5) / columns, (pixel // columns + 0.5) / rows
    kinds = torch.cat(
        [
            torch.where(held > 0, INSIDE, NONE).expand(-1, -1, count),
            torch.where(free > 0, OUTSIDE, NONE).expand(-1, -1, count),
        ],
        dim=-1,
    )
    return Points(torch.stack([column, row], dim=-1), kinds)
