"""How a specialist asks a generalist: random prompts drawn from its own prediction.

SemiSAM+ (https://arxiv.org/abs/2502.20749), Eq. 10: the specialist's output serves as a mask prompt, points are drawn
from it, or both. Each draw is another way to ask the same thing, which Eq. 11 needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lib.core.filters import box_mean

PromptMode = Literal["both", "mask", "points"]
Kind = Literal["both", "mask", "points", "box"]
"""How a structure is asked about: ``box`` by the boxes around the mask on each slice, without the mask itself."""


@dataclass(frozen=True)
class QuestionOptions:
    """How to draw prompts.

    Args:
        sure: share of the voxels of a class that points may lie on: the surest ones. A share, because a specialist
            that has learned from soft labels is nowhere sure by an absolute measure.
        reach: how far from the structures points of the background may lie, in voxels.
        logit_shift: how much a mask is made wider or narrower at random: largest shift of its log odds.
    """

    sure: float = 0.8
    reach: int = 3
    logit_shift: float = 1.0


@dataclass(frozen=True, eq=False)
class Question:
    """Prompts about all structures of one scan.

    Args:
        asked: the structures it is about, classes from 1.
        channels: 1 + N, all classes.
        points: voxels ``[P, 3]`` int64; P is 0 when only masks are used.
        classes: ``[P]``: what the specialist is sure that each point belongs to, 0 for the background.
        stands_for: ``[P]``: voxels among which each point was drawn: points are no fair sample of the classes.
        mask: ``[1 + N, D, H, W]``, sum 1, or None when only points are used.
        boxes: the structures for which the mask stands for the boxes around it.
    """

    asked: tuple[int, ...]
    channels: int
    points: Tensor
    classes: Tensor
    stands_for: Tensor
    mask: Tensor | None
    boxes: frozenset[int] = frozenset()

    def mask_of(self, value: int) -> Tensor | None:
        """The mask of one class against all others, ``[D, H, W]``: above one half where that class leads."""
        if self.mask is None:
            return None
        own = self.mask[value]
        best = torch.cat([self.mask[:value], self.mask[value + 1 :]]).amax(dim=0)
        return own / (own + best).clamp_min(1e-6)


class Questioner:
    """Draws questions about one prediction.

    Args:
        prediction: ``[1 + N, D, H, W]``, sum 1.
        mode: which prompts to use.
        options: how to draw them.
    """

    def __init__(self, prediction: Tensor, mode: PromptMode, options: QuestionOptions | None = None) -> None:
        self._prediction = prediction
        self._mode = mode
        self._options = options or QuestionOptions()
        found = prediction.argmax(dim=0)
        self.asked = tuple(c for c in range(1, len(prediction)) if bool((found == c).any()))
        """The structures that the specialist sees at all; about others it cannot ask."""
        self._pools = self._points_of(found) if mode != "mask" and self.asked else {}

    def draw(self, points: int, generator: torch.Generator, kinds: Mapping[int, Kind] | None = None) -> Question:
        """Another random question.

        Args:
            points: of a class at most.
            generator: source of the random numbers (CPU).
            kinds: the structures it is about, and how it asks about each; None for all as the mode says. Points are
                drawn only where the mode has some, and none beside boxes.

        Raises:
            ValueError: when the specialist sees no structure: there is nothing to ask about.
        """
        if not self.asked:
            raise ValueError("the prediction is empty")
        asked = self.asked if kinds is None else tuple(value for value in self.asked if value in kinds)
        ways = set(kinds.values()) if kinds is not None else {self._mode}
        index, classes, stands_for = [torch.zeros(0, dtype=torch.long)], [], []
        for value, pool in self._pools.items() if ways & {"both", "points"} else ():
            picked = pool[torch.randperm(len(pool), generator=generator)[:points]]
            index.append(picked)
            classes += [value] * len(picked)
            stands_for += [len(pool) / len(picked)] * len(picked)
        places = torch.stack(torch.unravel_index(torch.cat(index), self._prediction.shape[1:]), dim=1)
        mask = None
        if ways != {"points"}:
            # A wider or narrower mask is as good a guess where the specialist is unsure, and the same where it is sure.
            shift = (torch.rand(len(self._prediction), generator=generator) * 2 - 1) * self._options.logit_shift
            mask = (self._prediction.clamp_min(1e-6).log() + shift.view(-1, 1, 1, 1)).softmax(dim=0)
        stands = torch.tensor(stands_for)
        boxes = frozenset(value for value in asked if kinds is not None and kinds[value] == "box")
        marked = torch.tensor(classes, dtype=torch.long)
        return Question(asked, len(self._prediction), places, marked, stands, mask, boxes)

    def _points_of(self, found: Tensor) -> dict[int, Tensor]:
        """The voxels of the flattened grid that points of each class may lie on; a class without any is left out."""
        near = box_mean((found > 0)[None].float(), self._options.reach)[0] > 0
        pools = {}
        for value in (0, *self.asked):
            wanted = found == value if value else (found == 0) & near
            index = wanted.flatten().nonzero()[:, 0]
            if not len(index):
                continue
            certainty = self._prediction[value].flatten()[index]
            most = max(1, round(self._options.sure * len(index)))
            pools[value] = index[certainty.argsort(descending=True, stable=True)[:most]]
        return pools
