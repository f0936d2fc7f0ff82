"""Prompts on a scan, answered on the slices they lie on and carried through the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.core.resampling import resize
from lib.generalists.base import Prompts
from lib.generalists.prompt_checks import check_prompts, within_box
from lib.generalists.slices import acquisition_view

from .encoder import FrameEncoder
from .tracker import Memory, Piece

SLICES = 48
"""Slices a session works on at most; those of a scan with more are averaged."""
MASK_SLICES = 6
"""Slices of a mask that are given to the model at most."""
GONE = 3
"""A structure that is gone for so many slices is not looked for further."""
_SURE = 1e-3
"""A mask's probabilities are kept this far from 0 and 1, so that their logits stay in the range of the model's own."""
_INSIDE, _OUTSIDE, _FIRST, _LAST = 1, 0, 2, 3


class Session:
    """A scan's slices in its acquisition plane, encoded when they are needed and kept.

    **What is prompted.** A slice with a positive click is segmented from its clicks, with the mask so far as a hint. So
    is the middle slice of a box, from the box's outline. Without a mask so far, a slice that only has negative clicks
    is corrected after a first run through the scan. Of a mask, slices away from all clicks count as given (up to six,
    spread evenly). From all these, the structure is followed to either end until it is gone.

    Nothing outside a box is segmented. Only negative clicks and no mask: nothing is segmented.

    Args:
        model: that answers.
        volume: the scan in 0..1, ``[D, H, W]``.
        spacing: voxel size in mm.
    """

    def __init__(self, model: FrameEncoder, volume: Tensor, spacing: Sequence[float]) -> None:
        self._model = model
        self._shape = tuple(volume.shape)
        self._view = acquisition_view(spacing)
        stack = self._view.stack(volume)
        self._full = tuple(stack.shape)
        self._stack = resize(stack[None], (min(SLICES, len(stack)), *stack.shape[1:]))[0]
        self._pieces: dict[int, Piece] = {}

    @property
    def bytes(self) -> int:
        """Memory that the session takes."""
        levels = (level for piece in self._pieces.values() for level in piece.levels or ())
        return self._stack.nbytes + sum(level.nbytes for level in levels)

    @torch.no_grad()
    def segment(self, prompts: Prompts) -> Tensor:
        """Answer to all prompts given so far; see ``PromptSession``."""
        points, positive, mask = check_prompts(prompts, self._shape)
        places = self._view.points(points, self._shape)
        slices = ((places[:, 0] + 0.5) * len(self._stack) / self._full[0]).floor().long()
        slices = slices.clamp(0, len(self._stack) - 1)
        hints = None if mask is None else self._hints(mask)
        box = None if prompts.box is None else self._view.points(prompts.box.detach().cpu().float(), self._shape)

        asked: dict[int, tuple[Tensor, Tensor]] = {}
        for at in slices.unique().tolist():
            here = slices == at
            asked[at] = self._pixels(places[here, 1:]), torch.where(positive[here], _INSIDE, _OUTSIDE)
        if box is not None:
            low, high = box.amin(0), box.amax(0)
            corners = self._pixels(torch.stack([low[1:] - 0.5, high[1:] + 0.5]))
            middle = int(((low[0] + high[0] + 1) / 2) * len(self._stack) / self._full[0])
            others = asked.get(middle, (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)))
            kinds = torch.cat([torch.tensor([_FIRST, _LAST]), others[1]])
            asked[middle] = torch.cat([corners, others[0]]), kinds

        with self._model.half():
            logits = self._answer(asked, hints)
        answer = self._view.volume(resize(logits.sigmoid()[None], self._full)[0])
        return answer if prompts.box is None else within_box(answer, prompts.box)

    def _answer(self, asked: dict[int, tuple[Tensor, Tensor]], hints: Tensor | None) -> Tensor:
        """Logits ``[slices, m, m]`` for the prompts by slice, and logits of the mask so far ``[slices, m, m]``."""
        tracker = self._model.tracker
        known: dict[int, Memory] = {}
        later = []
        for at, (points, kinds) in asked.items():
            hint = None if hints is None or not bool((hints[at] > 0).any()) else hints[at]
            if bool((kinds > 0).any()) or hint is not None:
                known[at] = tracker.from_points(self._piece(at), points, kinds, hint)
            else:
                later.append(at)
        if hints is not None:
            for at in _spread(hints, list(asked)):
                known[at] = tracker.from_mask(self._piece(at), hints[at][None] > 0)
        side = self._model.size // 4
        if not known:
            return torch.full((len(self._stack), side, side), -torch.inf)
        logits = self._carried(known)
        wrong = [at for at in later if bool((logits[at] > 0).any())]
        for at in wrong:
            points, kinds = asked[at]
            known[at] = tracker.from_points(self._piece(at), points, kinds, logits[at])
        return self._carried(known) if wrong else logits

    def _carried(self, known: dict[int, Memory]) -> Tensor:
        """Logits ``[slices, m, m]``, followed both ways from the prompted slices."""
        count, side = len(self._stack), self._model.size // 4
        logits = torch.full((count, side, side), -torch.inf)
        for reverse in (False, True):
            # Between prompted slices one direction suffices: the one that goes up, as in the published scripts.
            order = range(min(known), -1, -1) if reverse else range(min(known), count)
            gone = 0
            for at, found in self._model.tracker.follow(self._piece, count, known, order, reverse=reverse):
                logits[at] = found[0].float().cpu()
                gone = 0 if bool((logits[at] > 0).any()) else gone + 1
                if gone == GONE and (reverse or at > max(known)):
                    break
        return logits

    def _piece(self, at: int) -> Piece:
        if at not in self._pieces:
            self._pieces[at] = self._model.encode_windowed(self._stack[at : at + 1])[0]
        return self._pieces[at]

    def _hints(self, mask: Tensor) -> Tensor:
        """A mask so far ``[D, H, W]`` as logits on the session's slices ``[slices, m, m]``."""
        side = self._model.size // 4
        known = resize(self._view.stack(mask)[None], (len(self._stack), side, side))[0]
        # A structure smaller than the network's pixels may not reach one half in any of them.
        return (known * (0.6 / known.max().clamp(1e-6, 0.6))).clamp(_SURE, 1 - _SURE).logit()

    def _pixels(self, places: Tensor) -> Tensor:
        """Places ``[P, 2]`` as row, column of a slice to x, y of the network's image; centres are whole numbers."""
        scale = places.new_tensor([self._model.size / self._full[1], self._model.size / self._full[2]])
        return ((places + 0.5) * scale - 0.5).flip(1)


def _spread(hints: Tensor, clicked: list[int]) -> list[int]:
    """Slices that a mask may count as given on: it marks something there, and no click is near."""
    marked = (hints > 0).flatten(1).any(1).nonzero()[:, 0].tolist()
    near = max(2, len(marked) // 8)
    free = [at for at in marked if all(abs(at - other) > near for other in clicked)]
    count = min(MASK_SLICES, len(free))
    return [free[int((n + 0.5) * len(free) / count)] for n in range(count)]
