"""Answers of a 2D model on single slices of a volume, whose features are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from cachetools import LRUCache
from torch import Tensor

from lib.core.metrics import overlap
from lib.generalists.slices import Canvas

from .asked import Asked
from .boxes import box_of, common, deepest, enclosing
from .candidates import Candidates
from .encoder import SliceEncoder

AHEAD = 4
"""Slices encoded at once on a GPU when a mask is carried along."""
CLICK_MM = 40.0
"""Side of the square a click stands for when the model takes boxes only."""
SAME, SURE = 0.85, 0.8
"""Dice of two masks from which on they mean the same, and the score from which on the network is believed so."""
LOGIT = 8.0
"""Certainty is cut off here: no voxel is more certain than 0.9997."""


@dataclass(frozen=True, eq=False)
class Question:
    """Prompts of a slice: places ``[P, 2]`` and a box ``[4]`` in canvas pixels, and logits ``[4g, 4g]``.

    ``hint`` are the decoder's own logits where they are known; ``plain`` is the mask that was made of them.
    """

    points: Tensor
    positive: Tensor
    box: Tensor | None
    hint: Tensor | None
    plain: Tensor | None = None


class SliceAnswers:
    """Asks the network about slices; each is encoded when it is first needed.

    Args:
        model: answers.
        slices: ``[S, rows, columns]`` in 0..1, or ``[S, 3, rows, columns]`` in colour.
        canvas: what they lie on.
        pixel_mm: side of a canvas' pixel.
        kept: how many slices' features are kept; the least recently used go first.
    """

    def __init__(self, model: SliceEncoder, slices: Tensor, canvas: Canvas, pixel_mm: float, kept: int) -> None:
        self._model = model
        self._slices = slices
        self.canvas = canvas
        self._pixel_mm = pixel_mm
        self._kept = max(1, kept)
        self._features: LRUCache[int, Tensor] = LRUCache(self._kept)
        self._feature_bytes = self._own_bytes = 0
        self._decoded: dict[int, Tensor] = {}
        self._own: LRUCache[tuple[int, bytes], Tensor] = LRUCache(self._kept)
        self._said: LRUCache[int, Tensor] = LRUCache(self._kept)

    def __len__(self) -> int:
        return len(self._features)

    @property
    def bytes(self) -> int:
        """Memory that the slices, their features and the answers that may go back take."""
        each = len(self._features) * self._feature_bytes + len(self._own) * self._own_bytes
        said = sum(logits.nbytes for logits in list(self._said.values()))
        return self._slices.nbytes + each + said

    def nothing(self) -> Tensor:
        """The logits ``[h, w]`` of a slice on which nothing is segmented."""
        return torch.full(self.canvas.mask, -LOGIT)

    def decide(
        self, index: int, asked: Asked, before: Tensor | None, *, carried: bool = False, ahead: Sequence[int] = ()
    ) -> tuple[Tensor, float]:
        """Ask the network about a slice.

        A network that takes masks gets its own logits back where ``before`` is an answer of its own to this slice
        (``remember``), as in its training; a mask from elsewhere goes in as logits made from it. Clicks on the slice
        decide with the score which mask is the answer (``candidates``).

        Args:
            index: the slice.
            asked: the prompts.
            before: logits ``[h, w]`` at the masks' resolution: what is thought of the slice.
            carried: ``before`` is a neighbour's.
            ahead: the slices that will be asked about next.

        Returns:
            Logits ``[h, w]`` and the network's score.
        """
        points, positive = self.clicks(index, asked)
        clicks = len(points)
        box = asked.rectangle
        if before is not None and not bool((before > 0).any()):
            before = None
        scale = self.canvas.patch / 4  # canvas pixels a mask's pixel
        around = None if before is None else box_of(before, scale)
        hint, plain = None, None
        if "points" in self._model.prompts:
            if before is not None and around is not None and (carried or not clicks):
                inside = (deepest(before) + 0.5) * scale - 0.5
                points = torch.cat([points, inside])
                positive = torch.cat([positive, torch.ones(len(inside), dtype=torch.bool)])
                box = around if box is None else common(around, box)
            if before is not None:
                own = None if carried or asked.mask is None else self.remembered(index, asked.mask[index])
                plain = self.padded(before)
                hint = plain if own is None else own
        else:
            box = self._only_box(points, positive, box, around, carried)
            points, positive = points[:0], positive[:0]
        if box is None and hint is None and not bool(positive.any()):
            return self.nothing(), 0.0
        found = self._offered(self._embedding(index, ahead), Question(points, positive, box, hint, plain), clicks)
        best = found.best
        return self.taken(index, found, best), float(found.scores[best])

    def encoded(self, index: int) -> bool:
        """Whether a slice need not be encoded any more."""
        return index in self._features

    def encode(self, index: int) -> None:
        """Encode a slice, so that it is there when it is asked about."""
        self._embedding(index, ())

    def better(self, index: int, asked: Asked, before: Tensor) -> Tensor | None:
        """Another's mask of a slice, with the border where the network sees it.

        The network is given the mask, a box around it, and the clicks on the slice, or the places deepest inside.

        Args:
            index: the slice.
            asked: the prompts.
            before: logits ``[h, w]`` at the masks' resolution, positive somewhere.

        Returns:
            Logits ``[h, w]``, or None where the network means something else.
        """
        points, positive = self.clicks(index, asked)
        clicks, scale = len(points), self.canvas.patch / 4
        inside = (deepest(before) + 0.5) * scale - 0.5
        points = torch.cat([points, inside])
        positive = torch.cat([positive, torch.ones(len(inside), dtype=torch.bool)])
        question = Question(points, positive, box_of(before, scale), self.padded(before))
        found = self._answers(self._embedding(index, ()), question, clicks, several=False)
        logits = found.logits[0].clamp(-LOGIT, LOGIT)
        believed = float(found.scores[0]) >= SURE and not found.contradicted and _same(logits, before)
        self._said.pop(index, None)
        if believed:
            self._said[index] = logits
        return logits if believed else None

    def said(self, index: int, before: Tensor) -> Tensor | None:
        """What ``better`` last said about a slice, logits ``[h, w]``, if ``before`` still means the same."""
        logits = self._said.get(index)
        return logits if logits is not None and _same(logits, before) else None

    def clicks(self, index: int, asked: Asked) -> tuple[Tensor, Tensor]:
        """The clicks on a slice as canvas pixels ``[P, 2]``, and which are inside the structure ``[P]``."""
        on = asked.on(index)
        return self.canvas.pixels(asked.places[on]), asked.positive[on]

    def answer(self, index: int, question: Question, *, several: bool) -> Candidates:
        """The network's answers to a question about a slice whose points are all a person's clicks."""
        return self._answers(self._embedding(index, ()), question, len(question.points), several=several)

    def judged(self, decoded: Tensor, scores: Tensor, points: Tensor, positive: Tensor) -> Candidates:
        """Masks ``[M, 4g, 4g]`` and their scores ``[M]`` beside clicks ``[P, 2]`` in canvas pixels."""
        places = (points + 0.5) * 4 / self.canvas.patch - 0.5
        return Candidates.of(decoded, scores, self.canvas.mask, places, positive)

    def taken(self, index: int, offered: Candidates, best: int) -> Tensor:
        """The logits ``[h, w]`` of one of the masks that the network has offered; ``remember`` notes it."""
        self._decoded[index] = offered.decoded[best].half()
        return offered.logits[best].clamp(-LOGIT, LOGIT)

    def remember(self, answer: Tensor, indices: Iterable[int]) -> None:
        """Note what the decoder gave for slices, so that the answer can go back to it as it came.

        Args:
            answer: probabilities ``[S, rows, columns]`` as they were handed out.
            indices: the slices whose answer is that of the last ``decide``.
        """
        for index in set(indices) & set(self._decoded):
            self._own[_key(index, answer[index])] = self._decoded[index]
            self._own_bytes = self._decoded[index].nbytes
        self._decoded.clear()

    def remembered(self, index: int, mask: Tensor) -> Tensor | None:
        """The decoder's logits ``[4g, 4g]`` of which a mask ``[rows, columns]`` was made, None for another's mask."""
        found = self._own.get(_key(index, mask))
        return None if found is None else found.float()

    def _offered(self, features: Tensor, question: Question, clicks: int) -> Candidates:
        """The network's answers to a question of which the first points are ``clicks`` of a person.

        One mask, or three for a single click, which may mean a part or the whole. Where that contradicts a click, the
        network is asked for three, and then without what was segmented so far, which may have led it astray.
        """
        points = len(question.points)
        alone = points == 1 and question.box is None and question.hint is None
        found = self._answers(features, question, clicks, several=alone)
        if question.plain is not None and question.plain is not question.hint:
            # The plain mask is more decided than the logits: it often gives the better of the two answers.
            plain = self._answers(features, replace(question, hint=question.plain), clicks, several=False)
            found = found.and_others(plain)
        if not points:
            return found
        for again, several in ((question, True), (replace(question, hint=None), True)):
            if not found.contradicted:
                break
            if (again is question and alone) or (again is not question and question.hint is None):
                continue  # asked already
            found = found.and_others(self._answers(features, again, clicks, several=several))
        return found

    def _answers(self, features: Tensor, question: Question, clicks: int, *, several: bool) -> Candidates:
        device = self._model.device
        points, positive, box, hint = question.points, question.positive, question.box, question.hint
        decoded, scores = self._model.network.masks(
            features,
            points.to(device) if len(points) else None,
            positive.to(device) if len(points) else None,
            None if box is None else box.to(device),
            None if hint is None else hint.to(device),
            several=several,
        )
        return self.judged(decoded.float().cpu(), scores.float().cpu(), points[:clicks], positive[:clicks])

    def _embedding(self, index: int, ahead: Sequence[int]) -> Tensor:
        """Features of a slice ``[C, g, g]``; those of ``ahead`` are encoded along on a GPU."""
        if index not in self._features:
            on_gpu = self._model.device.type == "cuda"
            new = [index, *(n for n in ahead if n not in self._features)][: AHEAD if on_gpu else 1]
            new = new[: self._kept]
            for n, features in zip(new, self._model.embed(self._slices[new], self.canvas), strict=True):
                self._features[n] = features.half()
            self._feature_bytes = self._features[index].nbytes
        return self._features[index].float()

    def padded(self, logits: Tensor) -> Tensor:
        """A mask as a prompt: nothing is segmented in the padding."""
        side = 4 * self.canvas.size // self.canvas.patch
        padded = torch.full((side, side), -LOGIT)
        padded[: logits.shape[0], : logits.shape[1]] = logits
        return padded

    def _only_box(
        self, points: Tensor, positive: Tensor, box: Tensor | None, around: Tensor | None, carried: bool
    ) -> Tensor | None:
        """One box in place of all prompts of a slice, as canvas pixels ``[4]``; None if nothing is pointed at."""
        half = CLICK_MM / self._pixel_mm / 2
        inside = points[positive]
        if box is not None and not (carried and around is not None):
            parts = [box, *(torch.cat([p, p]) for p in inside)]
        else:
            limited = around if around is None or box is None else common(around, box)
            parts = [*([] if limited is None else [limited]), *(torch.cat([p - half, p + half]) for p in inside)]
        if not parts:
            return None
        return enclosing(parts, (self.canvas.height, self.canvas.width), inside, points[~positive])


def _same(logits: Tensor, before: Tensor) -> bool:
    """Whether two masks, logits ``[h, w]``, are borders of the same structure."""
    return overlap((logits > 0).numpy(), (before > 0).numpy())[0] >= SAME


def _key(index: int, mask: Tensor) -> tuple[int, bytes]:
    """A slice, and what is segmented on it (0.5 and above)."""
    return index, hashlib.sha1((mask >= 0.5).numpy().tobytes(), usedforsecurity=False).digest()
