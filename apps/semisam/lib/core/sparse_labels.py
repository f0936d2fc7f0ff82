"""Labels of which only three orthogonal planes are outlined, and what they are on a working grid.

FM-ABS (https://papers.miccai.org, "Promptable Foundation Model Drives Active Barely Supervised Learning", 2024, section
2.3): one axial, one sagittal and one coronal slice a scan are outlined. On these planes background is annotated, too;
off them nothing is known. A label says so by its look, or a person says it beside the label (``Annotated``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from .errors import UserError, listed
from .frames import Frame

Annotated = Literal["auto", "all", "planes"]
"""What a person says is annotated in a label: judged by its look, every voxel, or three planes only."""
ANNOTATED: tuple[Annotated, ...] = ("auto", "all", "planes")

LEAST_EXTENT = 4
"""Voxels that the outline must span along every axis before its look says anything: smaller things are drawn whole. A
ball of 3 voxels drawn whole lies on three planes, too."""
LEAST_SQUARE = 3
"""Side of a filled square of voxels that every plane must hold. Thin vessels and sheets that happen to follow the grid
hold none on one of their planes."""
_MARGIN = 2
"""How far around a plane, in voxels of the working grid, its label is repeated; see ``on_grid``."""


@dataclass(frozen=True)
class Planes:
    """The annotated planes of a label.

    Args:
        at: the plane's voxel index along each axis of the label's array.
    """

    at: tuple[int, int, int]

    def mask(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which voxels are annotated: ``[D, H, W]`` boolean."""
        found = np.zeros(shape, dtype=bool)
        for axis, index in enumerate(self.at):
            found[(slice(None),) * axis + (index,)] = True
        return found

    def share(self, shape: tuple[int, ...]) -> float:
        """Share of the voxels that are annotated, 0..1."""
        return 1.0 - math.prod((n - 1) / n for n in shape)


def stated(info: Mapping[str, object]) -> str:
    """What is said beside a stored label about what is annotated: ``annotated`` in its info, or in its ``params``."""
    params = info.get("params")
    value = info.get("annotated", params.get("annotated") if isinstance(params, Mapping) else None)
    return "auto" if value is None else str(value)


def check_stated(text: str) -> Annotated:
    """The text of ``stated``, if it means anything.

    Raises:
        UserError: (422) for anything but one of ``ANNOTATED``.
    """
    for known in ANNOTATED:
        if text == known:
            return known
    raise UserError(
        f"annotated: {text!r} is not known. Allowed: {', '.join(ANNOTATED)}. Store the label again, or its info, "
        "with one of these.",
        status=422,
    )


def only_sparse(names: Sequence[str]) -> str:
    """What to tell a person who wants labels carried over, but only planes are annotated in these scans."""
    return (
        f"Only three slices a scan are outlined so far ({listed(names)}). Such a label cannot be carried over to other "
        "scans: train with the recipe fm_abs, which learns from outlined slices, or outline one scan wholly and save "
        "it as final."
    )


def find_planes(label: np.ndarray, annotated: Annotated = "auto") -> Planes | None:
    """The planes that are annotated in a label; None when all of it is.

    By its look a label is sparse when three planes, one across each axis, hold all its structures, none of the three
    can be left out, each holds a filled square (``LEAST_SQUARE``), and the whole is larger than a few voxels along
    every axis (``LEAST_EXTENT``). Drawn whole, a structure that fills a square on each of three planes goes on beside
    them. A tiny structure, a thin vessel, or slices of one or two directions are none of that.

    Args:
        label: ``[D, H, W]`` voxel values, at least one above 0.
        annotated: what a person says; with ``planes``, the planes need only hold all structures.

    Raises:
        UserError: (422) when ``planes`` is said, but no three planes hold all structures.
    """
    if annotated == "all":
        return None
    inside = label > 0
    candidates = _covers(inside)
    if annotated == "planes":
        if not candidates:
            raise UserError(
                "The label is said to be annotated on planes, but no three planes, one across each axis of the scan, "
                "hold all that is outlined. Outline one axial, one coronal and one sagittal slice (aligned with the "
                "scan's own slices), or store the label with annotated = all.",
                status=422,
            )
        return max(candidates, key=lambda planes: _evenness(inside, planes))
    sparse = [planes for planes in candidates if _looks_sparse(inside, planes)]
    return max(sparse, key=lambda planes: _evenness(inside, planes)) if sparse else None


def on_grid(label: np.ndarray, planes: Planes, frame: Frame, channels: int) -> tuple[Tensor, Tensor]:
    """A sparse label on a working grid.

    A plane that is thinner than the grid's voxels counts by the share of a plane's thickness that lies in the voxel: a
    voxel that holds all of it has weight 1, two that share it have less each. The soft labels are means over the
    annotated voxels alone. Where nothing is annotated, the weight is 0, and up to ``_MARGIN`` voxels beside a plane its
    label is repeated: windows of a training are cut in between the voxels, and must not mix a plane's label with a
    background that nobody has drawn.

    Args:
        label: ``[D, H, W]`` voxel values on the scan's own grid.
        planes: what is annotated.
        frame: the working grid, of D' x H' x W' voxels.
        channels: classes, background included.

    Returns:
        Soft labels ``[channels, D', H', W']``, sum 1, and weights ``[D', H', W']`` in 0..1.
    """
    drawn = planes.mask(label.shape)
    weight = torch.zeros(frame.shape)
    cropped = frame.crop(drawn)
    for axis in range(3):
        others = tuple(n for n in range(3) if n != axis)
        for index in np.flatnonzero(cropped.all(axis=others)).tolist():
            held = _held(index, cropped.shape[axis], frame.shape[axis])
            weight = torch.maximum(weight, held.reshape([-1 if n == axis else 1 for n in range(3)]))
    # Background is counted only where it is annotated: value `channels` stands for "not annotated".
    parts = frame.one_hot(np.where(drawn, label, channels).astype(np.uint8), channels + 1)[:channels]
    known = parts.sum(0)
    weight = torch.where(known > 1e-6, weight, 0.0)
    soft = parts / known.clamp_min(1e-6)
    return _repeated(soft, weight > 0), weight


def _held(index: int, fine: int, coarse: int) -> Tensor:
    """How much of the plane ``index`` of ``fine`` ones lies in each of ``coarse`` ones over the same extent, 0..1.

    The share of the thinner of the two: of the plane on a coarser grid, of the grid's voxel on a finer one.
    """
    edges = torch.linspace(0, fine, coarse + 1)
    shared = (edges[1:].clamp(max=index + 1) - edges[:-1].clamp(min=index)).clamp(min=0)
    return (shared / min(1.0, fine / coarse)).clamp(max=1.0)


def _repeated(soft: Tensor, known: Tensor) -> Tensor:
    """Soft labels ``[C, D, H, W]`` with those of ``known`` voxels repeated close by, and background elsewhere."""
    background = torch.zeros_like(soft)
    background[0] = 1.0
    if not bool(known.any()):
        return background
    away, nearest = distance_transform_edt(~known.numpy(), return_indices=True)
    d, h, w = (torch.from_numpy(n).long() for n in nearest)
    copied = soft[:, d, h, w]
    return torch.where(torch.from_numpy(away <= _MARGIN), copied, background)


def _covers(inside: np.ndarray) -> list[Planes]:
    """All triples of planes, one across each axis, that hold every voxel of ``inside`` and that it determines.

    A voxel lies on one of the three planes. So one voxel fixes the first plane in one of three ways, one of those that
    are left the second plane, and those that are still left have to share the third.
    """
    boxes = [np.flatnonzero(inside.any(axis=tuple(n for n in range(3) if n != axis))) for axis in range(3)]
    if not all(len(box) for box in boxes):
        return []
    a, b, c = (int(box[-1] - box[0]) + 1 for box in boxes)
    if np.count_nonzero(inside) > a * b + b * c + c * a:
        return []
    voxels = np.argwhere(inside)
    found: set[tuple[int, int, int]] = set()
    for first in range(3):
        left = voxels[voxels[:, first] != voxels[0, first]]
        if not len(left):
            continue
        for second in {0, 1, 2} - {first}:
            third = 3 - first - second
            last = left[left[:, second] != left[0, second]]
            if len(last) and bool((last[:, third] == last[0, third]).all()):
                at = {first: int(voxels[0, first]), second: int(left[0, second]), third: int(last[0, third])}
                found.add((at[0], at[1], at[2]))
    return [Planes(at) for at in sorted(found)]


def _looks_sparse(inside: np.ndarray, planes: Planes) -> bool:
    """See ``find_planes``; ``planes`` hold all of ``inside``."""
    for axis in range(3):
        used = np.flatnonzero(inside.any(axis=tuple(n for n in range(3) if n != axis)))
        if used[-1] - used[0] + 1 < LEAST_EXTENT:
            return False
    if min(_own(inside, planes)) == 0:
        return False
    square = np.ones((LEAST_SQUARE, LEAST_SQUARE), dtype=bool)
    return all(
        bool(binary_erosion(inside.take(index, axis=axis), square).any()) for axis, index in enumerate(planes.at)
    )


def _own(inside: np.ndarray, planes: Planes) -> list[int]:
    """Voxels of ``inside`` that only the plane across each axis holds."""
    voxels = np.argwhere(inside)
    on = voxels == np.array(planes.at)
    return [int((on[:, axis] & (on.sum(1) == 1)).sum()) for axis in range(3)]


def _evenness(inside: np.ndarray, planes: Planes) -> int:
    return min(_own(inside, planes))
