"""Clicks on a volume with a 2D model: the graph cut finds the structure, the model betters it on slices.

A 2D model asked by a click alone often takes a part, or the whole body, and knows nothing of the next slice. The graph
cut finds the right thing in three dimensions, with less exact borders. Its mask on a slice and a box around it tell the
model what is meant. What the model makes of them counts as much as the cut, where it is the same thing still.

A box is what such models are good at: its answers to a box without clicks, on a few slices, tell the graph cut what is
meant, as a mask from earlier clicks would.

That helps where slices are thick, so that the graph cut has little to go by between them. In scans with thin slices,
where it has, 2D answers took more than they gave: there the graph cut answers clicks alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lib.core.errors import UserError
from lib.core.intensity import clipped
from lib.formats.pictures import luminance
from lib.generalists.base import Promptable, PromptKind, Prompts, PromptSession
from lib.generalists.slices import THICK

from .before import FoundBefore
from .graph_cut import GraphCut

AHEAD = 4
"""Slices beside the clicked one that are encoded after an answer, while a person looks at it."""
LARGER, SLIGHT = 6.0, 0.25
"""Area that an answer to a click on a picture may change: so many times the circle around the click that reaches to the
nearest border, and such a share of the answer before."""
BOX_SLICES = 5
"""Slices of a box that the model is asked about before the first answer to it."""


class Bettering(PromptSession, Protocol):
    """A session of a 2D model that can better another's answer; see ``sam2d.session.SliceSession``."""

    def bettered(self, prompts: Prompts, first: Tensor) -> Tensor:
        """The answer ``first`` ``[D, H, W]`` in 0..1, bettered on slices with clicks and on slices encoded before."""
        ...

    def in_box(self, prompts: Prompts, most: int) -> Tensor:
        """What a box means, ``[D, H, W]`` in 0..1, after a look at ``most`` of its slices or so."""
        ...

    def encode_beside(self, prompts: Prompts, answer: Tensor, most: int) -> bool:
        """Encode the next slice of ``most`` beside those of the clicks; False when there is none left."""
        ...


class Agreeing(PromptSession, Protocol):
    """A session of a 2D model that answers together with another method; see ``sam2d.session.SliceSession``."""

    def agreed(self, prompts: Prompts, other: Tensor) -> Tensor:
        """What the model and the answer ``other`` ``[D, H, W]`` in 0..1 agree on, after a click on a picture."""
        ...


class Joined:
    """A 2D model and the graph cut as one.

    Args:
        model: looks at slices (``slicewise``).
        ahead: slices that are encoded in the background after an answer.
    """

    def __init__(self, model: Promptable, *, ahead: int = AHEAD) -> None:
        self.name = model.name
        self.prompts: frozenset[PromptKind] = frozenset({"points", "box", "mask"})
        self.colours = bool(getattr(model, "colours", False))
        self._model, self._ahead = model, ahead

    def open(self, image: Tensor, spacing: Sequence[float]) -> PromptSession:
        """Get a scan ready; a picture is the model's alone where it takes boxes only."""
        own = self._model.open(image, spacing)
        if image.shape[-1] == 1:
            if not self._model.prompts >= {"points", "mask"}:
                return own
            return JoinedPicture(own, GraphCut().open(brightness(image), spacing))
        cut = GraphCut().open(image, spacing)
        if "mask" not in self._model.prompts:
            return BoxOrCut(own, cut)
        return JoinedSession(own, cut, self._ahead, thick=max(spacing) >= THICK * min(spacing))


def brightness(image: Tensor) -> Tensor:
    """A picture ``[1, D, H, 1]``, or ``[3, D, H, 1]`` in colour, as the graph cut sees it: ``[1, D, H, 1]``."""
    if len(image) == 1:
        return image
    return torch.from_numpy(clipped(luminance(image.numpy())))[None]


class _Both:
    """One scan, opened twice.

    Args:
        model: the scan, opened by the model.
        cut: the scan, opened by the graph cut.
    """

    def __init__(self, model: PromptSession, cut: PromptSession) -> None:
        self._model, self._cut = model, cut

    @property
    def bytes(self) -> int:
        """Memory that the session takes."""
        return _bytes(self._model) + _bytes(self._cut)


class JoinedPicture(_Both):
    """A picture that waits for prompts: the first click is answered by both together, a box by the model.

    One click does not tell a 2D model whether a part is meant or the whole; the graph cut, which knows no parts, does.
    By further clicks the model corrects what was answered before, as it was trained to. Where it changes more than the
    clicks account for (``explained``), it means another structure; both answer together again, if that changes less.

    Args:
        model: the picture, opened by the model.
        cut: the picture, opened by the graph cut.
    """

    def segment(self, prompts: Prompts) -> Tensor:
        """Probability of the structure that the prompts mean, ``[D, H, W]`` in 0..1; raises UserError without any."""
        if prompts.box is not None or not len(prompts.points):
            return self._model.segment(prompts)
        model: Agreeing = self._model  # type: ignore[assignment]
        if prompts.mask is None:
            return model.agreed(prompts, self._cut.segment(prompts))
        answer = model.segment(prompts)
        if explained(answer, prompts.mask, prompts):
            return answer
        together = model.agreed(prompts, self._cut.segment(prompts))
        return min(answer, together, key=partial(_changed, before=prompts.mask))


def _changed(answer: Tensor, before: Tensor) -> int:
    """Voxels of which two answers in 0..1 say different things."""
    return int(((answer >= 0.5) != (before >= 0.5)).sum())


def explained(answer: Tensor, before: Tensor, prompts: Prompts) -> bool:
    """Whether clicks on a picture account for all that an answer changes of the one before.

    A click is set in the middle of an error: this reaches about as far as the nearest border of the answer before.

    Args:
        answer: ``[D, H, 1]`` in 0..1.
        before: the answer before, likewise.
        prompts: the clicks.
    """
    inside = before[..., 0].numpy() >= 0.5
    depth = np.where(inside, distance_transform_edt(inside), distance_transform_edt(~inside))
    most = 0.0
    for (row, column), positive in zip(prompts.points[:, :2].round().long().tolist(), prompts.positive, strict=True):
        if bool(positive) != bool(inside[row, column]):
            most = max(most, float(depth[row, column]))
    return _changed(answer, before) <= LARGER * math.pi * most**2 + SLIGHT * int(inside.sum())


class BoxOrCut(_Both):
    """A volume that waits for prompts: a box is a question for a model that takes nothing else, clicks are none.

    Args:
        model: the scan, opened by the model.
        cut: the scan, opened by the graph cut.
    """

    def segment(self, prompts: Prompts) -> Tensor:
        """Probability of the structure that the prompts mean, ``[D, H, W]`` in 0..1; raises UserError without any."""
        return (self._cut if prompts.box is None else self._model).segment(prompts)


class JoinedSession(_Both):
    """A volume that waits for prompts.

    The graph cut goes on from its own answers, as it does without weights: the model's errors do not become its own.

    Args:
        model: the scan, opened by the model.
        cut: the scan, opened by the graph cut.
        ahead: see ``Joined``.
        thick: the scan has thick slices: the model betters the graph cut's answers on them.
    """

    def __init__(self, model: PromptSession, cut: PromptSession, ahead: int, *, thick: bool = True) -> None:
        super().__init__(model, cut)
        self._ahead, self._thick = ahead, thick
        self._before = FoundBefore()
        self._busy = threading.Lock()
        self._asked = 0
        self._background: threading.Thread | None = None

    def segment(self, prompts: Prompts) -> Tensor:
        """Probability of the structure that the prompts mean, ``[D, H, W]`` in 0..1; raises UserError without any."""
        self._asked += 1  # the background gives way
        with self._busy:
            if prompts.mask is not None:
                prompts = replace(prompts, mask=self._before.of(prompts.mask))
            first = self._cut.segment(self._with_box_seen(prompts))
            if not self._thick:
                return first
            answer = self._bettering.bettered(replace(prompts, mask=None), first)
            self._before.note(answer, first)
        self._encode_ahead(prompts, answer)
        return answer

    def _with_box_seen(self, prompts: Prompts) -> Prompts:
        """A box without clicks inside: what the model sees in it on a few slices tells the graph cut what is meant."""
        if prompts.box is None or prompts.mask is not None or bool(prompts.positive.any()):
            return prompts
        return replace(prompts, mask=self._bettering.in_box(prompts, BOX_SLICES))

    @property
    def bytes(self) -> int:
        """Memory that the session takes."""
        return super().bytes + self._before.bytes

    def wait(self) -> None:
        """Until nothing is encoded in the background."""
        if self._background is not None:
            self._background.join()

    def close(self) -> None:
        """Encode no more in the background."""
        self._asked += 1

    @property
    def _bettering(self) -> Bettering:
        return self._model  # type: ignore[return-value]

    def _encode_ahead(self, prompts: Prompts, answer: Tensor) -> None:
        number = self._asked

        def work() -> None:
            for most in range(1, self._ahead + 1):
                with self._busy:
                    try:
                        if number != self._asked or not self._bettering.encode_beside(prompts, answer, most):
                            return
                    except (UserError, RuntimeError):  # memory: what is missing is encoded when it is asked for
                        return

        if self._ahead and len(prompts.points):
            self._background = threading.Thread(target=work, name="semisam-encode-ahead", daemon=True)
            self._background.start()


def _bytes(session: PromptSession) -> int:
    return int(getattr(session, "bytes", 0))
