"""The contract between SemiSAM+'s assistant and a generalist: answers about whole scans on the specialist's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lib.core.metrics import overlap
from lib.training.scan_view import ScanView

from .question import Kind, PromptMode, Question


class OpenedScan(Protocol):
    """A scan that a generalist has encoded."""

    @property
    def bytes(self) -> int:
        """Memory that it takes, about."""
        ...

    def kinds(self, mode: PromptMode) -> Sequence[Kind]:
        """The ways in which structures may be asked about, the usual one first."""
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


LEAST_OVERLAP = 0.6
"""Dice of an answer about a structure with what it was asked about, below which it is about something else."""


def believed(answer: Tensor, prediction: Tensor, asked: Sequence[int]) -> tuple[int, ...]:
    """The structures for which an answer is about what was asked.

    A model that does not know a structure finds another one, or nothing, and does so again and again: that its answers
    agree is then no sign that they are right.

    Args:
        answer: ``[1 + N, D, H, W]``, sum 1.
        prediction: of the specialist, alike: what it was asked about.
        asked: the structures that it was asked about.
    """
    found, own = answer.argmax(dim=0), prediction.argmax(dim=0)
    return tuple(value for value in asked if overlap_of(found == value, own == value) >= LEAST_OVERLAP)


def overlap_of(one: Tensor, other: Tensor) -> float:
    """Dice of two boolean masks; 1 when both are empty."""
    return overlap(one.cpu().numpy(), other.cpu().numpy())[0]


def only_asked(answer: Tensor, asked: Sequence[int], prediction: Tensor) -> Tensor:
    """Put the specialist's own probabilities in place of all other structures.

    Args:
        answer: ``[1 + N, D, H, W]``, sum 1.
        asked: the structures that were asked about, or that are ``believed``.
        prediction: of the specialist, alike.
    """
    unasked = [c for c in range(1, len(answer)) if c not in asked]
    if not unasked:
        return answer
    joined = answer.clone()
    joined[unasked] = 0.0
    joined[0] += 1e-6  # where the answer was all for the others, the background gets what is left
    joined *= (1.0 - prediction[unasked].sum(dim=0)) / joined.sum(dim=0)
    joined[unasked] = prediction[unasked]
    return joined
