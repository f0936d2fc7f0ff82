"""Prompts on a volume in the terms of its slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.generalists.base import Prompts
from lib.generalists.prompt_checks import check_prompts
from lib.generalists.slices import Canvas, View


@dataclass(frozen=True, eq=False)
class Asked:
    """What a person says, slice by slice.

    Args:
        places: clicks ``[P, 2]`` as row, column.
        slices: the slice of each click.
        positive: ``[P]``.
        rectangle: the box in a slice as canvas pixels ``[4]``, or None.
        first: the first slice that may be answered.
        last: the last one.
        mask: what is segmented so far ``[slices, rows, columns]``, or None.
    """

    places: Tensor
    slices: list[int]
    positive: Tensor
    rectangle: Tensor | None
    first: int
    last: int
    mask: Tensor | None

    @classmethod
    def of(cls, prompts: Prompts, shape: Sequence[int], view: View, canvas: Canvas) -> Asked:
        """Prompts on a scan of ``shape`` that is looked at in ``view``, its slices on ``canvas``.

        Raises:
            UserError: see ``check_prompts``.
        """
        points, positive, mask = check_prompts(prompts, shape)
        count = int(view.sizes(shape)[0])
        places = view.points(points, shape)
        slices = [min(max(round(float(p)), 0), count - 1) for p in places[:, 0]]
        first, last, rectangle = 0, count - 1, None
        if prompts.box is not None:
            ends = view.points(prompts.box.detach().cpu().float(), shape)
            low, high = ends.amin(0), ends.amax(0)
            first, last = round(float(low[0])), round(float(high[0]))
            rectangle = canvas.box(low[1:], high[1:])
        if mask is not None:
            mask = view.stack(mask)
            if not slices and rectangle is None:
                used = torch.nonzero((mask >= 0.5).flatten(1).any(1)).flatten()
                first, last = int(used[0]), int(used[-1])
        return cls(places[:, 1:], slices, positive, rectangle, first, last, mask)

    @property
    def only_mask(self) -> bool:
        """Whether nothing is said but a mask."""
        return not self.slices and self.rectangle is None

    def on(self, index: int) -> list[int]:
        """Which clicks are on a slice."""
        return [n for n, s in enumerate(self.slices) if s == index]

    def keys(self, step: int) -> list[int]:
        """The slices that may be asked about: one in ``step``, the ends, the box's middle, and the slices of clicks."""
        count = self.last + 1
        keys = {*range(0, count, step), *self.slices, self.first, self.last}
        if self.rectangle is not None:
            keys.add((self.first + self.last) // 2)
        return sorted(k for k in keys if self.first <= k <= self.last)

    def spread(self, most: int) -> list[int]:
        """About ``most`` slices spread over those that may be answered, their ends and middle among them."""
        count = min(most, self.last - self.first + 1)
        even = torch.linspace(self.first, self.last, max(2, count)).round().int().tolist()
        keys = {*even, (self.first + self.last) // 2, *self.slices}
        return sorted(k for k in keys if self.first <= k <= self.last)

    def known(self, keys: Sequence[int], canvas: Canvas) -> dict[int, Tensor]:
        """Logits ``[h, w]`` of what is segmented so far, at the resolution of the network's masks, by slice."""
        if self.mask is None:
            return {}
        return {
            index: torch.logit(canvas.to_mask(self.mask[index]), 0.01)
            for index in keys
            if bool((self.mask[index] >= 0.5).any())
        }

    def anchors(self, known: dict[int, Tensor]) -> list[int]:
        """The slices to begin with, in the order of the clicks."""
        if self.only_mask:
            return list(known)
        anchors = [
            s
            for s, positive in zip(self.slices, self.positive.tolist(), strict=True)
            if self.first <= s <= self.last and (positive or s in known)
        ]
        if self.rectangle is not None and not anchors:
            anchors = [(self.first + self.last) // 2]
        return list(dict.fromkeys(anchors))
