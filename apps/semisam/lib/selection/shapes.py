"""Size, place and form of structures: is a pseudo-label like the study's human labels?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lib.core.frames import frame_of
from lib.core.geometry import Volume

_VOLUME_SPREAD = 0.35
"""Usual standard deviation of the logarithm of a structure's volume between people, before any is known."""
_EXTENT_SPREAD = 0.25
"""The same of the logarithm of its extent, relative to the scan."""
_CENTRE_SPREAD = 0.12
"""The same of its centre, relative to the scan."""
_PRIOR = 4
"""How many human labels these weigh as much as."""


@dataclass(frozen=True)
class Shape:
    """Facts about one structure of a label.

    Args:
        volume_ml: its volume; of a 2D image of no meaning beyond comparison.
        extent: its bounding box relative to the scan's content along right, anterior, superior, 0..1.
        centre: its centre of mass in the scan's content, likewise.
        largest: share of its largest connected part, 0..1.
    """

    volume_ml: float
    extent: tuple[float, float, float]
    centre: tuple[float, float, float]
    largest: float

    @property
    def there(self) -> bool:
        """Whether the structure has any voxel."""
        return self.volume_ml > 0


_MISSING = Shape(0.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0)


def shapes_of(label: np.ndarray, scan: Volume, count: int) -> tuple[Shape, ...]:
    """The facts of the structures 1..count of a label ``[D, H, W]`` on the scan's grid; zeros for a missing one."""
    content = frame_of(scan).crop(label)
    boxes = ndimage.find_objects(np.ascontiguousarray(content), max_label=count)
    return tuple(
        _MISSING if box is None else _shape(content, value, box, scan.voxel_ml) for value, box in enumerate(boxes, 1)
    )


def _shape(content: np.ndarray, value: int, box: tuple[slice, ...], voxel_ml: float) -> Shape:
    mask = content[box] == value
    voxels = int(np.count_nonzero(mask))
    parts, _ = ndimage.label(mask)
    size = content.shape
    centre = [b.start + c + 0.5 for b, c in zip(box, ndimage.center_of_mass(mask), strict=True)]
    ex, ey, ez = ((b.stop - b.start) / n for b, n in zip(box, size, strict=True))
    cx, cy, cz = (c / n for c, n in zip(centre, size, strict=True))
    largest = int(np.bincount(parts.ravel())[1:].max()) / voxels
    return Shape(voxels * voxel_ml, (ex, ey, ez), (cx, cy, cz), largest)


def plausibility(shape: Shape, humans: Sequence[Shape]) -> float:
    """How well a structure fits those of the human labels, 0..1; 1 when there is none to compare with.

    1 for one like their mean; ``exp(-1/2)`` for one that is a standard deviation off in every respect. The deviations
    are those of the human labels, and with few of them mostly what is usual between people.
    """
    if not humans:
        return 1.0
    seen = [human for human in humans if human.there]
    if not shape.there or not seen:
        # There or not: as many human labels as say the same.
        return sum(human.there == shape.there for human in humans) / len(humans)
    off = [_off([math.log(h.volume_ml) for h in seen], math.log(shape.volume_ml), _VOLUME_SPREAD)]
    for axis in range(3):
        off.append(_off([math.log(h.extent[axis]) for h in seen], math.log(shape.extent[axis]), _EXTENT_SPREAD))
        off.append(_off([h.centre[axis] for h in seen], shape.centre[axis], _CENTRE_SPREAD))
    whole = min(1.0, shape.largest / (sum(h.largest for h in seen) / len(seen)))
    return math.exp(-0.5 * sum(o * o for o in off) / len(off)) * whole


def _off(seen: Sequence[float], value: float, usual: float) -> float:
    """Standard deviations that ``value`` is away from the mean of ``seen``."""
    mean = sum(seen) / len(seen)
    squares = sum((s - mean) ** 2 for s in seen)
    return (value - mean) / math.sqrt((squares + _PRIOR * usual**2) / (len(seen) + _PRIOR))
