"""Boxes and points on slices, made from a mask.

FM-ABS (MICCAI 2024, section 2.2): the teacher's prediction gives, on each slice that holds the structure, the box
around it, each side moved outwards at random by up to ten pixels, and points drawn at random from the mask. Here each
part of a mask has a box of its own, and specks have none: one box around all that a young teacher sees would hold half
the scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

LEAST_PIXELS = 3
"""Parts of fewer pixels are specks: nobody is asked about them."""
LEAST_PART = 0.25
"""So are parts that are smaller than this share of the largest one."""


@dataclass(frozen=True)
class PromptOptions:
    """How slices are prompted.

    Args:
        expand: pixels that a side of the box moves outwards at most.
        expand_share: the same as a share of the box's side. Ten pixels are little beside a left atrium of 70, but would
            drown a structure of ten pixels.
        points: points in the mask.
    """

    expand: int = 10
    expand_share: float = 0.2
    points: int = 5


@dataclass(frozen=True, eq=False)
class SlicePrompt:
    """What is asked about one part of a structure on a slice.

    Args:
        index: of the slice.
        low: first row and column of the box.
        high: last row and column of the box, counted in.
        points: places inside the structure ``[P, 2]`` int64 as row, column.
    """

    index: int
    low: tuple[int, int]
    high: tuple[int, int]
    points: Tensor


def prompts_of(mask: Tensor, options: PromptOptions, generator: torch.Generator) -> list[SlicePrompt]:
    """One prompt for each part on each slice of ``mask`` ``[slices, rows, columns]`` (boolean), specks left out."""
    prompts = []
    shape = mask.shape[1:]
    parts = [
        (index, part.nonzero())
        for index in torch.nonzero(mask.flatten(1).any(1)).flatten().tolist()
        for part in large_parts(mask[index])
    ]
    for index, inside in parts:
        if len(inside) < LEAST_PIXELS:
            continue
        low, high = inside.amin(0).tolist(), inside.amax(0).tolist()
        for axis in (0, 1):
            most = min(options.expand, round(options.expand_share * (high[axis] - low[axis] + 1)))
            before, after = torch.randint(most + 1, (2,), generator=generator).tolist()
            low[axis] = max(0, low[axis] - before)
            high[axis] = min(shape[axis] - 1, high[axis] + after)
        chosen = torch.randperm(len(inside), generator=generator)[: options.points]
        prompts.append(SlicePrompt(index, (low[0], low[1]), (high[0], high[1]), inside[chosen]))
    return prompts


def large_parts(mask: Tensor) -> list[Tensor]:
    """The connected parts of a mask of any dimension that are no specks, each as a mask, the largest first."""
    numbered, _ = label(mask.numpy())
    sizes = np.bincount(numbered.ravel())[1:]
    order = [int(n) for n in np.argsort(-sizes, kind="stable") if sizes[n] >= LEAST_PART * sizes.max()]
    return [torch.from_numpy(numbered == n + 1) for n in order]
