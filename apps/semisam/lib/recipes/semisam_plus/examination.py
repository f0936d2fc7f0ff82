"""Whether a generalist knows a structure: it has to correct a wrong outline of it on a scan that a human has outlined.

A foundation model that does not know a structure answers about something else, and does so again and again: that its
answers agree (Eq. 11 of SemiSAM+) is then no sign that they are right. Outlined scans tell: there the outline is moved
and resized, as wrong as a label may be that was carried over, and the generalist is asked about that.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional

from .answerers import OpenedScan, overlap_of
from .question import Kind, PromptMode, Questioner

ZOOM, SHIFT = 0.1, 0.06
"""How much the outline is made larger or smaller, and moved along each axis, as shares of its size."""
LEAST_GAIN = 0.01
"""Dice by which answers must be better than what they were asked about, on average, and none may be worse."""
_FLAT = 4
"""Along an axis on which the structures have fewer voxels, the outline stays as it is."""

Gains = dict[int, dict[Kind, list[float]]]
"""By structure and way of asking: Dice with the outline that the answers had more than the prompts."""


def examine(scan: OpenedScan, outline: Tensor, mode: PromptMode, points: int) -> Gains:
    """Ask about a wrong outline, once larger and once smaller, in all ways, each structure by itself.

    Args:
        scan: with a human label.
        outline: that label, ``[1 + N, D, H, W]``.
        mode: which prompts may be used.
        points: of a class.
    """
    true = outline.argmax(dim=0)
    found: Gains = {}
    random = torch.Generator().manual_seed(0)  # the training's own random numbers stay as they are without it
    for sign in (1, -1):
        wrong = distorted(outline, sign)
        questioner = Questioner(wrong, mode)
        given = wrong.argmax(dim=0)
        for value in questioner.asked:
            before = overlap_of(given == value, true == value)
            for kind in scan.kinds(mode):
                answer = scan.answer(questioner.draw(points, random, {value: kind})).argmax(dim=0)
                gain = overlap_of(answer == value, true == value) - before
                found.setdefault(value, {}).setdefault(kind, []).append(gain)
    return found


def distorted(outline: Tensor, sign: int) -> Tensor:
    """An outline ``[1 + N, D, H, W]`` larger and moved on (``sign`` 1), or smaller and moved back (-1)."""
    inside = (outline.argmax(dim=0) > 0).nonzero()
    if not len(inside):
        return outline
    shape = torch.tensor(outline.shape[1:])
    first, last = inside.amin(dim=0), inside.amax(dim=0) + 1
    size = last - first
    moves = size >= _FLAT
    zoom = torch.where(moves, 1.0 + sign * ZOOM, torch.ones(3))
    # In the coordinates of ``affine_grid``: -1 and 1 are the faces of the scan, and the last axis comes first.
    centre = (first + last) / shape - 1.0
    shift = torch.where(moves, sign * SHIFT * 2.0 * size / shape, torch.zeros(3))
    theta = torch.cat([torch.diag((1.0 / zoom).flip(0)), ((centre - (centre + shift) / zoom).flip(0))[:, None]], dim=1)
    grid = functional.affine_grid(theta[None], [1, 1, *outline.shape[1:]], align_corners=False)
    moved = functional.grid_sample(outline[None].float(), grid, align_corners=False)[0]
    moved[0] += 1.0 - moved.sum(dim=0)  # beyond the scan's faces there is background
    return moved


def ways(gains: Mapping[int, Mapping[Kind, list[float]]]) -> dict[int, Kind | None]:
    """The first way in which a generalist corrects each structure, None for one that it does not know.

    The first and not the best: a mask keeps an answer near the label, which boxes of a label that is wrong in another
    way than the examined ones do not. And one way, not several: their errors differ, so that little would be left on
    which all answers agree.
    """
    return {
        value: next((kind for kind, found in by_kind.items() if _corrects(found)), None)
        for value, by_kind in gains.items()
    }


def _corrects(gains: list[float]) -> bool:
    """A model that always answers with something larger is right about each outline that was made smaller."""
    return fmean(gains) >= LEAST_GAIN and min(gains) >= 0.0
