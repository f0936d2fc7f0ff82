"""Promptable foundation models as answerers: one structure at a time, then all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from lib.generalists import Generalist, unwrap
from lib.generalists.base import Promptable, Prompts, PromptSession
from lib.training.scan_view import ScanView

from .question import Kind, PromptMode, Question

_SURE = 1e-4
"""A model's probabilities are kept this far from 0 and 1, so that structures can be weighed against each other."""
_UNKNOWN = 16 * 2**20
"""Bytes that the features of a session count for which does not say how much they take."""


class PromptableAnswerer:
    """Asks a promptable model about each structure.

    Points of the structure are positive, those of the background and of other structures negative.

    Several models take turns in the memory of a GPU (``Residents``): each is called for before it works.

    Args:
        model: that answers, or a wrapper of it (``unwrap``).
        points: of each class; the more, the slower are models that take clicks one by one.
    """

    knows_size = True

    def __init__(self, model: Promptable | Generalist, points: int = 3) -> None:
        self.name = model.name
        self.points = points
        self._model = model

    def open(self, scan: ScanView) -> PromptableScan:
        """Encode a scan, in colour where the model can see colours."""
        model = self._called()
        image = scan.seen_by(model)
        return PromptableScan(model.open(image, scan.spacing), image, self._called)

    def _called(self) -> Promptable:
        """The model, in the memory of its device."""
        return cast("Promptable", unwrap(cast("Generalist", self._model)))


class PromptableScan:
    """A scan that a promptable model has encoded; see ``OpenedScan``.

    Args:
        session: of the model.
        image: the scan ``[1, D, H, W]``.
        call: brings the model into the memory of its device.
    """

    def __init__(self, session: PromptSession, image: Tensor, call: Callable[[], object] = lambda: None) -> None:
        self._session = session
        self._call = call
        self._shape = image.shape[1:]
        self._image_bytes = image.nbytes

    @property
    def bytes(self) -> int:
        """Memory of the encoded scan, as far as its session says."""
        return int(getattr(self._session, "bytes", 2 * self._image_bytes + _UNKNOWN))

    def kinds(self, mode: PromptMode) -> Sequence[Kind]:
        """With ``both``, a 2D model may be asked by the mask or by the boxes around it.

        Beside a mask it gets a box and points anyway, which random points only spoil.
        """
        return ("mask", "box") if mode == "both" and self._by_boxes is not None else (mode,)

    @property
    def _by_boxes(self) -> Callable[[Tensor], Tensor] | None:
        """How to ask by the boxes around a mask, where the session knows how."""
        return getattr(self._session, "segment_by_boxes", None)

    def answer(self, question: Question) -> Tensor:
        """Probabilities ``[1 + N, D, H, W]``, sum 1; a structure that no prompt marks counts as not there."""
        self._call()
        found = torch.zeros(question.channels, *self._shape)
        for value in question.asked:
            positive = question.classes == value
            mask = question.mask_of(value)
            if mask is not None and not bool((mask >= 0.5).any()):
                mask = None
            if value in question.boxes and self._by_boxes is not None:
                if mask is not None:
                    found[value] = self._by_boxes(mask)
            elif mask is not None or bool(positive.any()):
                found[value] = self._session.segment(Prompts(question.points.float(), positive, mask=mask))
        # Log odds against the background: p / (1 - p) for each structure, 1 for the background.
        odds = found.clamp(_SURE, 1.0 - _SURE).logit()
        odds[0] = 0.0
        return odds.softmax(dim=0)
