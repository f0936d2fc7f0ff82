"""The planes most worth outlining, where only a label is known and no prediction."""

from __future__ import annotations

from typing import Any

import numpy as np

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.core.uncertainty import normalised_entropy
from lib.selection import planes_in_scan, planes_to_outline

_VOXELS = 200_000
_LEAST = 16


def planes_of_label(label: np.ndarray, scan: Volume) -> dict[str, Any]:
    """The planes that cut the structures of a label most widely.

    Args:
        label: ``[D, H, W]`` on the scan's grid.
        scan: its scan.

    Returns:
        The planes as ``lib.selection.planes_in_scan`` gives them.
    """
    frame = frame_of(scan).with_voxels(_VOXELS, _LEAST)
    probabilities = frame.one_hot(label, max(2, int(label.max()) + 1))
    return dict(planes_in_scan(frame, planes_to_outline(probabilities, normalised_entropy(probabilities)), scan.affine))
