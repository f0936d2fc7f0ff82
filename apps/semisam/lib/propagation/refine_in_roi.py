"""A second registration, in the region of interest: the part of a scan where the structures are.

A working grid over a whole scan is coarse: one of 430 000 voxels over an abdomen has 6 mm. Once a first matching has
said where the structures lie, the same number of voxels over that part alone is much finer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from lib.core.frames import Frame

from .affine_placement import Start
from .displacement import sample, voxel_grid
from .placement import Placement

MOST_OF_SCAN = 0.5
"""Share of the scan up to which a part is worth a look of its own: its grid is then finer by a quarter at least."""
_MARGIN_MM = 20.0
_MARGIN_VOXELS = 3
"""Of the first working grid: as far as the first matching may be wrong."""


@dataclass(frozen=True, eq=False)
class RoiGrids:
    """What the second registration matches.

    Args:
        scan: a finer working grid over the part of the scan where the structures are.
        template: a working grid, likewise, over the part of the template that belongs there.
        place: where the template's grid lies on the scan's.
        start: displacement ``[3, *scan.shape]`` of the first registration, in voxels of ``scan``.
    """

    scan: Frame
    template: Frame
    place: Placement
    start: Tensor


@dataclass(frozen=True, eq=False)
class RoiPart:
    """The part of a scan for the second registration, and what the first one says there.

    Args:
        scan: a finer working grid over the part of the scan where the structures are.
        shift: mean displacement of the structures, in voxels of the first grid.
        corner: where the part begins, in voxels of the first grid.
        ratio: voxels of the finer grid to one of the first, per axis.
        moves: displacement ``[3, *scan.shape]`` of the first registration, in voxels of ``scan``.
        spread: how far single displacements of the structures lie from the mean, in voxels of the first grid.
    """

    scan: Frame
    shift: tuple[float, ...]
    corner: tuple[float, ...]
    ratio: tuple[float, ...]
    moves: Tensor
    spread: tuple[float, ...]

    @property
    def rest(self) -> Tensor:
        """``moves`` without the mean displacement."""
        mean = torch.tensor(self.shift) * torch.tensor(self.ratio)
        return self.moves - mean.to(self.moves.device).view(3, 1, 1, 1)


def part_for_roi(scan: Frame, structures: Tensor, displacement: Tensor, *, voxels: int, least: int) -> RoiPart | None:
    """The part of a scan around its structures, or None when there are none or a finer grid would gain nothing.

    Args:
        scan: see ``grids_in_roi``, also for the others.
        structures: ``[D, H, W]`` boolean.
        displacement: ``[3, D, H, W]``.
        voxels: size of the finer grid.
        least: voxels it has along each axis at least.
    """
    if not bool(structures.any()):
        return None
    found = displacement[:, structures]
    shift = found.mean(dim=1)
    # The template's part is moved as a whole: what lies further off than the mean needs room.
    spread = (found - shift[:, None]).abs().amax(dim=1).tolist()
    axes = zip(scan.spacing, spread, scan.shape, strict=True)
    margin = max(_MARGIN_MM, *((_MARGIN_VOXELS + most) * pitch for pitch, most, count in axes if count > 1))
    part = scan.around(structures, margin)
    if math.prod(part.extent) > MOST_OF_SCAN * math.prod(scan.extent):
        return None
    fine = part.with_voxels(voxels, least)
    ratio = [a / b for a, b in zip(scan.spacing, fine.spacing, strict=True)]
    if max(ratio) < MOST_OF_SCAN ** (-1 / 3):
        return None  # the scan has no finer voxels

    # Places of the finer grid on the first one.
    corner = [(p[0] - s[0]) * v / d for p, s, v, d in zip(part.box, scan.box, scan.voxel, scan.spacing, strict=True)]
    scale = torch.tensor(ratio, device=displacement.device).view(3, 1, 1, 1)
    first = torch.tensor(corner, device=displacement.device).view(3, 1, 1, 1)
    moves = sample(displacement, first + (voxel_grid(fine.shape, displacement.device) + 0.5) / scale - 0.5)

    moved = tuple(float(n) for n in shift)
    return RoiPart(fine, moved, tuple(corner), tuple(ratio), moves * scale, tuple(spread))


def part_of_template(template: Frame, part: RoiPart, start: Start) -> Frame:
    """The part of a template's grid that a start lays on the part of a scan, and what may be moved there."""
    place = start.placement(part.scan, template)
    reach = [ratio * (spread + 1) for ratio, spread in zip(part.ratio, part.spread, strict=True)]
    ends = [(-0.5 - more, size - 0.5 + more) for more, size in zip(reach, part.scan.shape, strict=True)]
    corners = np.array(list(product(*ends))) @ place.matrix[:, :3].T + place.matrix[:, 3]
    box, shape = [], []
    for axis in range(3):
        low, high = template.box[axis]
        one = (high - low) / template.shape[axis]
        first = min(max(low, math.floor(low + (corners[:, axis].min() + 0.5) * one)), high - 1)
        last = max(first + 1, min(high, math.ceil(low + (corners[:, axis].max() + 0.5) * one)))
        box.append((first, last))
        shape.append(max(1, round((last - first) / one)))
    return replace(template, box=(box[0], box[1], box[2])).with_shape(shape)


def grids_in_roi(
    scan: Frame,
    template: Frame,
    place: Placement,
    structures: Tensor,
    displacement: Tensor,
    *,
    voxels: int,
    least: int,
) -> RoiGrids | None:
    """The grids of the second registration, or None when nothing was found or a finer grid would gain nothing.

    Args:
        scan: the working grid of the first registration, over the whole scan.
        template: the template's, of the shape that ``place`` says.
        place: where the template's grid lies on the scan's.
        structures: ``[D, H, W]`` boolean: where the first registration has found structures, on the scan's grid.
        displacement: ``[3, D, H, W]`` of the first registration, in voxels.
        voxels: size of the finer grid.
        least: voxels it has along each axis at least.
    """
    part = part_for_roi(scan, structures, displacement, voxels=voxels, least=least)
    if part is None:
        return None
    fine, shift, corner, ratio = part.scan, part.shift, part.corner, part.ratio
    box, shape, offset, rest = [], [], [], []
    for axis in range(3):
        # The template's part: as long as the scan's, moved by the mean displacement, on the template's first grid.
        begin = corner[axis] - place.offset[axis] + shift[axis]
        end = begin + fine.shape[axis] / ratio[axis]
        one = template.spacing[axis] / template.voxel[axis]  # canonical voxels of a working one
        low, high = template.box[axis]
        bounds = max(low, math.floor(low + begin * one)), min(high, math.ceil(low + end * one))
        if bounds[1] <= bounds[0]:
            return None  # only where the first registration went astray
        count = max(1, round((bounds[1] - bounds[0]) / one * ratio[axis]))
        exact = ((bounds[0] - low) / one - begin) * ratio[axis]
        box.append(bounds)
        shape.append(count)
        offset.append(round(exact))
        rest.append(offset[-1] - exact - shift[axis] * ratio[axis])
    part_of_template = replace(template, box=(box[0], box[1], box[2])).with_shape(shape)
    start = part.moves + torch.tensor(rest, device=part.moves.device).view(3, 1, 1, 1)
    return RoiGrids(fine, part_of_template, Placement(part_of_template.shape, (offset[0], offset[1], offset[2])), start)
