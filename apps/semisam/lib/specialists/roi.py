"""The region of interest: the part of a large scan that a specialist works on.

In a scan far larger than what is outlined, a network that sees all of it sees little of the structures, and one that
sees it window by window finds them in places where they are not. Both see the same part here, around the structures.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from lib.core.frames import Frame

from .spec import SpecialistSpec

_LEAST_MARGIN_MM = 10.0


def roi_of(frame: Frame, inside: Tensor, grid: Frame, spec: SpecialistSpec) -> Frame:
    """The part of a scan around its structures, at the scan's own resolution.

    Args:
        frame: ``frame_of`` the scan.
        inside: ``[D, H, W]`` boolean: where structures are, about.
        grid: the working grid of ``inside``.
        spec: says how large the part is; it is larger where the structures need it.

    Returns:
        ``frame`` itself where ``spec`` wants whole scans.

    Raises:
        ValueError: when a part is wanted, and nothing is marked.
    """
    if spec.part is None:
        return frame
    if not bool(inside.any()):
        raise ValueError("nothing says where the part of the scan is")
    around = grid.around(inside, _LEAST_MARGIN_MM)
    box = []
    for axis in range(3):
        first, last = around.box[axis]
        low, high = frame.box[axis]
        wanted = min(high - low, max(last - first, round(spec.part[axis] / frame.voxel[axis])))
        # In the middle of it lie the structures, unless the scan ends there.
        begin = min(max(low, round((first + last - wanted) / 2)), high - wanted)
        box.append((begin, begin + wanted))
    shape = [last - first for first, last in box]
    return replace(frame, box=(box[0], box[1], box[2])).with_shape(shape)
