"""Prompts on a volume, answered by a 2D model slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lib.generalists.base import Prompts
from lib.generalists.prompt_checks import within_box
from lib.generalists.slices import acquisition_view

from .agreed import agreed
from .asked import Asked
from .between import blended, faded, stays
from .encoder import SliceEncoder
from .single import SliceAnswers

STEP_MM = 3.0
"""About how far apart the slices are that the network is asked about; those in between are interpolated."""
MOST_ASKED = 8
"""Slices that the network is asked about for an answer that it betters: each takes a tenth of a second or more."""
SHARE = 0.5
"""What the network's word on a slice counts beside the other's answer. At one half, it moves borders where both are
near each other; what it alone adds or leaves out far from them changes nothing. Chosen on ``mscmr`` 7 to 12 and
``chaos_mr`` 13: more gains more in the mean, but is worse than the other's answer more often."""
KEPT_SLICES = 256
"""Slices whose features a session keeps: 2 MiB each."""
SHRINKS, GROWS = 0.25, 3.0
"""A mask whose area changes by more than this from one slice to the next is another structure, or none."""


class SliceSession:
    """A scan that waits for prompts; its slices are encoded when they are first needed, and kept.

    Slices are those of the plane with the finest pixels. Answers become 3D so:

    1. *Anchors* are the slices with a positive click; a box without one is asked about in its middle slice; a slice
       with a negative click is an anchor where something is segmented so far. The network answers the clicks, the box
       and, as a mask prompt, what is known of the slice so far: its own logits where that is an answer of this session.
       Of the masks it offers, the one is taken that contradicts the fewest clicks and does not fill the slice.
    2. From each anchor the mask is carried to the next slices, about ``STEP_MM`` apart and on the slices of all
       clicks: the network is given the neighbour's mask, a box around it, the points deepest inside its parts, and the
       clicks on the slice. This ends at the end of the box, at the next anchor, when the answer is empty, when the
       network gives it a low score, or when its area has changed by more than a factor of 4 down or 3 up.
    3. Between two anchors both answers are blended by distance; logits are interpolated between the slices asked about.

    Nothing outside a box is segmented. What was segmented so far stays on slices that nothing is carried to, but not
    beyond a negative click that ended a carry. A mask as the only prompt is refined slice by slice, and not carried on.

    A model that takes boxes only gets the smallest box around the mask it would have been given and around squares of
    ``CLICK_MM`` about the positive clicks (the box of the prompts takes the place of both on its slices, enlarged if a
    click lies beside it), cut so that negative clicks lie outside.

    Args:
        model: answers.
        volume: ``[D, H, W]`` in 0..1, or ``[3, D, H, W]`` in colour.
        spacing: voxel size in mm.
        kept: how many slices' features are kept; the least recently used go first.
    """

    def __init__(
        self, model: SliceEncoder, volume: Tensor, spacing: Sequence[float], *, kept: int = KEPT_SLICES
    ) -> None:
        self._min_score = model.min_score
        self._shape = tuple(volume.shape[-3:])
        self._view = acquisition_view(spacing)
        self._canvas = model.canvas(self._shape, spacing, self._view)
        step_mm, row_mm, _ = self._view.sizes(spacing)
        self._step = max(1, round(STEP_MM / step_mm))
        pixel_mm = row_mm * self._canvas.rows / self._canvas.height
        stack = self._view.stack(volume)
        slices = stack if stack.ndim == 3 else stack.movedim(0, 1)
        self._answers = SliceAnswers(model, slices.contiguous(), self._canvas, pixel_mm, kept)

    @property
    def bytes(self) -> int:
        """Memory that the session takes."""
        return self._answers.bytes

    @torch.no_grad()
    def segment(self, prompts: Prompts) -> Tensor:
        """Probability of the structure that all prompts mean, ``[D, H, W]`` in 0..1; UserError without any."""
        asked = Asked.of(prompts, self._shape, self._view, self._canvas)
        return self._segmented(prompts, asked, asked.keys(self._step))

    @torch.no_grad()
    def in_box(self, prompts: Prompts, most: int) -> Tensor:
        """What ``segment`` answers when it asks about ``most`` slices of a box, spread evenly: soon and roughly."""
        asked = Asked.of(prompts, self._shape, self._view, self._canvas)
        return self._segmented(prompts, asked, asked.spread(most))

    def _segmented(self, prompts: Prompts, asked: Asked, keys: list[int]) -> Tensor:
        known = asked.known(keys, self._canvas)
        anchors = asked.anchors(known)
        ended: set[int] = set()
        if asked.only_mask:
            answers = {index: self._answers.decide(index, asked, known[index])[0] for index in anchors}
        else:
            answers, ended = self._carried(asked, known, anchors, keys)
        found = self._volume(asked, known, answers, keys, ended)
        if prompts.box is not None:
            found = within_box(found, prompts.box)
        self._answers.remember(self._view.stack(found), answers)
        return found

    @torch.no_grad()
    def segment_by_boxes(self, mask: Tensor) -> Tensor:
        """Probability ``[D, H, W]`` in 0..1 of what the network finds in the box around a mask, slice by slice.

        Of the mask ``[D, H, W]`` (at least 0.5 inside) the network gets nothing but the boxes.
        """
        nowhere = Prompts(torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool), mask=mask)
        asked = Asked.of(nowhere, self._shape, self._view, self._canvas)
        keys = asked.keys(self._step)
        known = asked.known(keys, self._canvas)
        answers = {index: self._answers.decide(index, self._boxed(asked, index), None)[0] for index in known}
        return self._volume(asked, known, answers, keys, set())

    def _boxed(self, asked: Asked, index: int) -> Asked:
        """The same question about one slice by the box around its mask, which must not be empty."""
        assert asked.mask is not None
        places = (asked.mask[index] >= 0.5).nonzero().float()
        return replace(asked, mask=None, rectangle=self._canvas.box(places.amin(0), places.amax(0)))

    @torch.no_grad()
    def bettered(self, prompts: Prompts, first: Tensor) -> Tensor:
        """Another's answer with the borders where the network sees them.

        The network is asked about the slices with clicks, and about those that are encoded already, ``MOST_ASKED`` at
        most, those nearest to the last click; of the others it counts what it last said. On such a slice both answers
        count (``SHARE``); what that changes fades on the slices beside it. Where it gainsays a click that the other's
        answer obeys, nothing changes.

        Args:
            prompts: all clicks and the box so far.
            first: the answer ``[D, H, W]`` in 0..1.

        Returns:
            The same, bettered.
        """
        asked = Asked.of(replace(prompts, mask=first), self._shape, self._view, self._canvas)
        stack = self._view.stack(first)
        changes: dict[int, Tensor] = {}
        for n, index in enumerate(self._worth_asking(asked, stack)):
            before = torch.logit(self._canvas.to_mask(stack[index]), 0.01)
            if not bool((before > 0).any()):
                continue
            logits = self._answers.better(index, asked, before) if n < MOST_ASKED else self._answers.said(index, before)
            if logits is None:
                continue
            found = torch.lerp(stack[index], self._canvas.from_mask(logits.sigmoid()), SHARE)
            if not bool((_obeyed(stack[index], index, asked) & ~_obeyed(found, index, asked)).any()):
                changes[index] = found - stack[index]
        result = self._view.volume(faded(stack, changes, self._step)).clamp(0, 1)
        return result if prompts.box is None else within_box(result, prompts.box)

    def _worth_asking(self, asked: Asked, stack: Tensor) -> list[int]:
        """Slices of an answer with clicks, then those that are encoded, the nearest to the last click first."""
        within = range(asked.first, asked.last + 1)
        reached = [n for n in within if bool((stack[n] >= 0.5).any())]
        known = [n for n in reached if n in asked.slices or self._answers.encoded(n)]
        near = asked.slices[-1] if asked.slices else (asked.first + asked.last) // 2
        return sorted(known, key=lambda n: (n not in asked.slices, abs(n - near), n))

    @torch.no_grad()
    def agreed(self, prompts: Prompts, other: Tensor) -> Tensor:
        """What the network and another method agree on, of a scan of one slice.

        Args:
            prompts: a click.
            other: the other method's answer ``[D, H, W]`` in 0..1.

        Returns:
            Probability ``[D, H, W]`` in 0..1: one of the network's answers, or ``other``. See ``agreed``.
        """
        asked = Asked.of(prompts, self._shape, self._view, self._canvas)
        mask = torch.logit(self._canvas.to_mask(self._view.stack(other)[0]), 0.01)
        logits = agreed(self._answers, 0, asked, mask)
        if logits is None:
            return other
        found = self._view.volume(self._canvas.from_mask(logits).sigmoid()[None])
        self._answers.remember(self._view.stack(found), [0])
        return found

    @torch.no_grad()
    def encode_beside(self, prompts: Prompts, answer: Tensor, most: int) -> bool:
        """Encode one of the ``most`` slices beside the last click that ``answer`` reaches; False when all are."""
        asked = Asked.of(replace(prompts, mask=None), self._shape, self._view, self._canvas)
        reached = (self._view.stack(answer) >= 0.5).flatten(1).any(1)
        near = asked.slices[-1]
        beside = [n for n in range(near % self._step, len(reached), self._step) if bool(reached[n]) and n != near]
        for index in sorted(beside, key=lambda n: (abs(n - near), n))[:most]:
            if not self._answers.encoded(index):
                self._answers.encode(index)
                return True
        return len(beside) > most

    def _carried(
        self, asked: Asked, known: dict[int, Tensor], anchors: list[int], keys: list[int]
    ) -> tuple[dict[int, Tensor], set[int]]:
        """Answers on all slices a mask can be carried to, and the slices on which a negative click ended that."""
        found: dict[int, dict[int, Tensor]] = {}  # by slice, then by the anchor the answer came from
        own: dict[int, Tensor] = {}
        hints: dict[int, Tensor] = {}
        ended: set[int] = set()
        for anchor in anchors:
            own[anchor], _ = self._answers.decide(anchor, asked, hints.get(anchor, known.get(anchor)))
            for path in (keys[: keys.index(anchor)][::-1], keys[keys.index(anchor) + 1 :]):
                current = own[anchor]
                for n, index in enumerate(path):
                    if not bool((current > 0).any()):
                        break
                    before = current if index not in known else (current + known[index]) / 2
                    if index in anchors and index in own:
                        break
                    logits, score = self._answers.decide(index, asked, before, carried=True, ahead=path[n + 1 :])
                    if not self._believed(current, logits, score):
                        if not bool(asked.positive[asked.on(index)].all()):
                            ended.add(index)
                        break
                    if index in anchors:
                        hints[index] = logits
                        break
                    found.setdefault(index, {})[anchor] = logits
                    current = logits
        return {**blended(found, sorted(own)), **own}, ended

    def _believed(self, before: Tensor, logits: Tensor, score: float) -> bool:
        """Whether an answer is the same structure as that on the slice before."""
        area, previous = int((logits > 0).sum()), int((before > 0).sum())
        return score >= self._min_score and SHRINKS * previous <= area <= GROWS * previous and area > 0

    def _volume(
        self,
        asked: Asked,
        known: dict[int, Tensor],
        answers: dict[int, Tensor],
        keys: list[int],
        ended: set[int],
    ) -> Tensor:
        """Probabilities ``[D, H, W]`` from the answers on some slices."""
        result = torch.zeros([int(n) for n in self._view.sizes(self._shape)])
        kept = stays(len(result), answers, ended)
        if asked.mask is not None:
            result[kept] = asked.mask[kept]
        nothing = self._answers.nothing()
        given = {**{n: logits for n, logits in known.items() if bool(kept[n])}, **answers}
        for low, high in zip(keys, [*keys[1:], keys[-1]], strict=True):
            if low not in answers and high not in answers:
                continue
            ends = [given.get(n, nothing) for n in (low, high)]
            for index in range(low, max(high, low + 1)):
                if index == low and low not in answers:
                    continue  # nothing was found there, or what was known stays
                logits = torch.lerp(ends[0], ends[1], (index - low) / max(1, high - low))
                result[index] = self._canvas.from_mask(logits).sigmoid_()
        result[: asked.first] = 0
        result[asked.last + 1 :] = 0
        return self._view.volume(result)


def _obeyed(answer: Tensor, index: int, asked: Asked) -> Tensor:
    """Which clicks on a slice an answer ``[rows, columns]`` in 0..1 says the same as, ``[P]`` boolean."""
    on = asked.on(index)
    rows, columns = asked.places[on].round().long().T
    rows, columns = rows.clamp(0, answer.shape[0] - 1), columns.clamp(0, answer.shape[1] - 1)
    return (answer[rows, columns] >= 0.5) == asked.positive[on]
