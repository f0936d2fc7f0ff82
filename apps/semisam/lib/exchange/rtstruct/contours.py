"""Closed contours around the pixels of a mask.

A contour runs between the pixels of the structure and those beside it, so that it holds exactly the centres of its
pixels. A hole is joined to the contour around it by a channel without width (the keyhole of PS3.3, C.8.8.6.3), because
most programs understand that, and few know contours of the type CLOSEDPLANAR_XOR.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import find_objects
from scipy.ndimage import label as components
from scipy.spatial import cKDTree
from skimage.measure import find_contours

_LEVEL = 0.505
"""Contours lie a hair nearer to the structure's own pixels than to those beside them: programs that round contours to
whole pixels (OpenCV's ``fillPoly``) then find the structure's own pixels."""
_STRAIGHT = 1e-6


def contours_of(mask: np.ndarray) -> list[np.ndarray]:
    """The contours around a mask.

    Args:
        mask: ``[rows, columns]`` boolean.

    Returns:
        For each connected part one closed contour ``[N, 2]``, column and row in pixels, without its first point again
        at its end; N is at least 3.
    """
    parts, _ = components(mask)
    found = []
    for number, place in enumerate(find_objects(parts), start=1):
        part = np.pad(parts[place] == number, 1).astype(np.float64)
        loops = [each[:-1] for each in find_contours(part, _LEVEL, fully_connected="low")]
        loops.sort(key=lambda loop: -float(np.prod(np.ptp(loop, axis=0))))
        corner = np.array([place[0].start - 1, place[1].start - 1])
        joined = _straightened(_joined(loops) + corner)
        found.append(joined[:, ::-1].copy())
    return found


def _joined(loops: list[np.ndarray]) -> np.ndarray:
    """One closed contour of an outer one, the first, and the holes within it: always by the shortest channel."""
    whole, holes = loops[0], loops[1:]
    while holes:
        tree = cKDTree(whole)
        near = [tree.query(hole) for hole in holes]
        nearest = int(np.argmin([distances.min() for distances, _ in near]))
        distances, indices = near[nearest]
        hole, start = holes.pop(nearest), int(distances.argmin())
        at = int(indices[start])
        around = np.roll(hole, -start, axis=0)
        whole = np.concatenate([whole[: at + 1], around, around[:1], whole[at:]])
    return whole


def _straightened(loop: np.ndarray) -> np.ndarray:
    """A closed contour without the points that lie on a straight way between their neighbours."""
    before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    goes_on = (before * after).sum(axis=1) > 0
    kept: np.ndarray = loop[~((np.abs(turn) < _STRAIGHT) & goes_on)]
    return kept
