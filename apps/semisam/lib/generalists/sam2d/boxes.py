"""Boxes and points on a slice that stand for a mask, or for other prompts."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

PARTS = 4
"""A mask is carried on with a point in each of this many parts at most."""
MARGIN = 0.05
"""What a box around a mask leaves free on each side for the next slice, as a share of its side."""


def enclosing(parts: list[Tensor], size: tuple[int, int], inside: Tensor, outside: Tensor) -> Tensor:
    """The smallest box around boxes, x, y, x, y ``[4]``, cut so that places lie outside of it where that can be.

    Args:
        parts: boxes ``[4]``, at least one.
        size: height and width of the slice in pixels of the canvas; the box ends there.
        inside: places ``[P, 2]`` as x, y that stay in the box; without any, its middle stays.
        outside: places ``[P, 2]`` that it leaves out.
    """
    stacked = torch.stack(parts)
    end = torch.tensor([size[1], size[0]]) - 0.5
    low, high = stacked[:, :2].amin(0).clamp(min=-0.5), torch.minimum(stacked[:, 2:].amax(0), end)
    whole = torch.cat([low, high])
    keep = inside if len(inside) else ((low + high) / 2)[None]
    for place in outside:
        whole = cut(whole, place, keep)
    return whole


def box_of(logits: Tensor, scale: float) -> Tensor:
    """The box around a mask with a margin, x, y, x, y ``[4]`` in canvas pixels; ``scale`` pixels a mask's pixel."""
    rows, columns = (torch.nonzero((logits > 0).any(axis)).flatten() for axis in (1, 0))
    first = torch.stack([columns[0], rows[0]]).float()
    last = torch.stack([columns[-1], rows[-1]]).float() + 1
    free = torch.clamp(MARGIN * (last - first), min=0.5)
    end = torch.tensor([logits.shape[1], logits.shape[0]]).float()
    return torch.cat([(first - free).clamp(min=0), torch.minimum(last + free, end)]) * scale - 0.5


def deepest(logits: Tensor) -> Tensor:
    """The place deepest inside each large part of a mask: column, row ``[P, 2]`` in pixels of the mask.

    Parts are large from a tenth of the largest on; there are ``PARTS`` at most. The mask must not be empty.
    """
    inside = (logits > 0).numpy()
    # A mask that touches the edge of the slice ends there.
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    parts, _ = label(inside)
    areas = np.bincount(parts.flat)[1:]
    large = [n for n in np.argsort(-areas, kind="stable")[:PARTS] if areas[n] * 10 >= areas.max()]
    places = [np.unravel_index(np.where(parts == n + 1, depth, 0).argmax(), depth.shape) for n in large]
    return torch.tensor([[float(column), float(row)] for row, column in places])


def common(box: Tensor, other: Tensor) -> Tensor:
    """What two boxes have in common; ``other`` if that is nothing."""
    both = torch.cat([torch.maximum(box[:2], other[:2]), torch.minimum(box[2:], other[2:])])
    return both if bool((both[:2] < both[2:]).all()) else other


def cut(box: Tensor, place: Tensor, keep: Tensor) -> Tensor:
    """The largest part of a box that leaves ``place`` ``[2]`` out and all of ``keep`` ``[P, 2]`` in.

    The box as it is when there is none.
    """
    if not bool(((place >= box[:2]) & (place <= box[2:])).all()):
        return box
    parts = []
    for axis in (0, 1):
        if bool((keep[:, axis] < place[axis] - 1).all()):
            parts.append(box.index_fill(0, torch.tensor([axis + 2]), float(place[axis]) - 1))
        if bool((keep[:, axis] > place[axis] + 1).all()):
            parts.append(box.index_fill(0, torch.tensor([axis]), float(place[axis]) + 1))
    return max(parts, key=lambda b: float((b[2:] - b[:2]).prod()), default=box)
