"""The contract between SemiSAM+'s assistant and a generalist: answers about whole scans on the specialist's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lib.training.scan_view import ScanView

from .question import Question


class OpenedScan(Protocol):
    """A scan that a generalist has encoded."""

    @property
    def bytes(self) -> int:
        """Memory that it takes, about."""
        ...

    def answer(self, question: Question) -> Tensor:
        """Probabilities ``[1 + N, D, H, W]``, sum 1; of structures that were not asked about they mean nothing."""
        ...


class Answerer(Protocol):
    """A generalist that answers questions."""

    name: str
    points: int
    """Points of each class that it likes to have."""
    knows_size: bool
    """Whether it has learnt how large structures are. What others answer keeps the sizes of the prediction."""

    def open(self, scan: ScanView) -> OpenedScan:
        """Encode a scan."""
        ...


LEFT_OUT = 0.05
"""Where structures that nobody asked about have a larger share of a voxel, the answers say nothing about it."""


def left_out(prediction: Tensor, asked: Sequence[int]) -> Tensor:
    """Voxels that may belong to a structure which was not asked about.

    All answers hold the specialist's own probability of it (``only_asked``). That they agree there is no knowledge of
    a generalist, and would keep the specialist from ever finding a structure that it does not see yet.

    Args:
        prediction: of the specialist, ``[1 + N, D, H, W]``, sum 1.
        asked: the structures that were asked about.

    Returns:
        Boolean ``[D, H, W]``.
    """
    unasked = [c for c in range(1, len(prediction)) if c not in asked]
    return prediction[unasked].sum(dim=0) > LEFT_OUT


def only_asked(answer: Tensor, question: Question, prediction: Tensor) -> Tensor:
    """Put the specialist's own probabilities in place of structures that were not asked about.

    Args:
        answer: ``[1 + N, D, H, W]``, sum 1.
        question: what was asked.
        prediction: of the specialist, alike.
    """
    unasked = [c for c in range(1, len(answer)) if c not in question.asked]
    if not unasked:
        return answer
    joined = answer.clone()
    joined[unasked] = 0.0
    joined[0] += 1e-6  # where the answer was all for the others, the background gets what is left
    joined *= (1.0 - prediction[unasked].sum(dim=0)) / joined.sum(dim=0)
    joined[unasked] = prediction[unasked]
    return joined
