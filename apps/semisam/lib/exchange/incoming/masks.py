"""One label map of the masks of several structures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from lib.core.errors import UserError
from lib.exchange.rtstruct.filling import is_border


def joined(masks: Sequence[tuple[str, int, np.ndarray]], shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """One label map; where structures touch, the first one keeps the voxel.

    Args:
        masks: name, value and mask ``[D, H, W]`` of each; those of one value are joined.
        shape: of the label map.

    Returns:
        ``[D, H, W]`` uint8, and sentences about voxels that structures share.

    Raises:
        UserError: (422) when structures overlap by more than their borders.
    """
    notes = []
    for (one, value, first), (other, another, second) in combinations(masks, 2):
        both = first & second
        shared = int(both.sum()) if value != another else 0
        if not shared:
            continue
        if not is_border(both):
            raise UserError(
                f"{one!r} and {other!r} overlap in {shared} voxels, and a voxel can belong to one structure only. "
                "Leave one of them out in the table of names (-), or part them in the program that they come from.",
                status=422,
            )
        notes.append(f"{one!r} and {other!r} share {shared} voxels at their border; they went to {one!r}")
    label = np.zeros(shape, dtype=np.uint8)
    for _, value, mask in reversed(masks):
        label[mask] = value
    return label, tuple(notes)
