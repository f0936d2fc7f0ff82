"""Answers of a 2D model on single slices of a volume, whose features are kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from cachetools import LRUCache
from torch import Tensor

from lib.generalists.slices import Canvas

from .asked import Asked
from .boxes import box_of, common, deepest, enclosing
from .encoder import SliceEncoder

AHEAD = 4
"""Slices encoded at once on a GPU when a mask is carried along."""
CLICK_MM = 40.0
"""Side of the square a click stands for when the model takes boxes only."""
LOGIT = 8.0
"""Certainty is cut off here: no voxel is more certain than 0.9997."""


class SliceAnswers:
    """Asks the network about slices; each is encoded when it is first needed.

    Args:
        model: answers.
        slices: ``[S, rows, columns]`` in 0..1.
        canvas: what they lie on.
        pixel_mm: side of a canvas' pixel.
        kept: how many slices' features are kept; the least recently used go first.
    """

    def __init__(self, model: SliceEncoder, slices: Tensor, canvas: Canvas, pixel_mm: float, kept: int) -> None:
        self._model = model
        self._slices = slices
        self._canvas = canvas
        self._pixel_mm = pixel_mm
        self._kept = max(1, kept)
        self._features: LRUCache[int, Tensor] = LRUCache(self._kept)
        self._feature_bytes = 0

    def __len__(self) -> int:
        return len(self._features)

    @property
    def bytes(self) -> int:
        """Memory that the slices and their features take."""
        return self._slices.nbytes + len(self._features) * self._feature_bytes

    def nothing(self) -> Tensor:
        """The logits ``[h, w]`` of a slice on which nothing is segmented."""
        return torch.full(self._canvas.mask, -LOGIT)

    def decide(
        self, index: int, asked: Asked, before: Tensor | None, *, carried: bool = False, ahead: Sequence[int] = ()
    ) -> tuple[Tensor, float]:
        """Ask the network about a slice.

        Args:
            index: the slice.
            asked: the prompts.
            before: logits ``[h, w]`` at the masks' resolution: what is thought of the slice.
            carried: ``before`` is a neighbour's.
            ahead: the slices that will be asked about next.

        Returns:
            Logits ``[h, w]`` and the network's score.
        """
        clicks = asked.on(index)
        points = self._canvas.pixels(asked.places[clicks])
        positive = asked.positive[clicks]
        box = asked.rectangle
        if before is not None and not bool((before > 0).any()):
            before = None
        scale = self._canvas.patch / 4  # canvas pixels a mask's pixel
        around = None if before is None else box_of(before, scale)
        if "points" in self._model.prompts:
            if before is not None and around is not None and (carried or not clicks):
                inside = (deepest(before) + 0.5) * scale - 0.5
                points = torch.cat([points, inside])
                positive = torch.cat([positive, torch.ones(len(inside), dtype=torch.bool)])
                box = around if box is None else common(around, box)
            hint = None if before is None else self._padded(before)
        else:
            box, hint = self._only_box(points, positive, box, around, carried), None
            points = points[:0]
        if box is None and hint is None and not bool(positive.any()):
            return self.nothing(), 0.0
        several = len(points) == 1 and box is None and hint is None
        device = self._model.device
        logits, scores = self._model.network.masks(
            self._embedding(index, ahead),
            points.to(device) if len(points) else None,
            positive.to(device) if len(points) else None,
            None if box is None else box.to(device),
            None if hint is None else hint.to(device),
            several=several,
        )
        best = int(scores.argmax())
        high, wide = self._canvas.mask
        return logits[best, :high, :wide].float().cpu().clamp(-LOGIT, LOGIT), float(scores[best])

    def _embedding(self, index: int, ahead: Sequence[int]) -> Tensor:
        """Features of a slice ``[C, g, g]``; those of ``ahead`` are encoded along on a GPU."""
        if index not in self._features:
            on_gpu = self._model.device.type == "cuda"
            new = [index, *(n for n in ahead if n not in self._features)][: AHEAD if on_gpu else 1]
            new = new[: self._kept]
            for n, features in zip(new, self._model.embed(self._slices[new], self._canvas), strict=True):
                self._features[n] = features.half()
            self._feature_bytes = self._features[index].nbytes
        return self._features[index].float()

    def _padded(self, logits: Tensor) -> Tensor:
        """A mask as a prompt: nothing is segmented in the padding."""
        side = 4 * self._canvas.size // self._canvas.patch
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
        return enclosing(parts, (self._canvas.height, self._canvas.width), inside, points[~positive])
