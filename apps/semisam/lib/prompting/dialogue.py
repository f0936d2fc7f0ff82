"""What a person has said about a structure, click after click, and what was answered: clicks can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

_MOST_ANSWERS = 32


@dataclass(frozen=True, eq=False)
class Clicks:
    """What a person says about one structure, in voxels of the scan as it is stored.

    Args:
        inside: ``[n, 3]`` float, clicks inside the structure.
        outside: ``[m, 3]`` float, clicks outside of it.
        box: first and last voxel ``[2, 3]``, or None.
    """

    inside: np.ndarray
    outside: np.ndarray
    box: np.ndarray | None = None

    @property
    def count(self) -> int:
        """Number of clicks."""
        return len(self.inside) + len(self.outside)

    def extends(self, other: Clicks) -> bool:
        """Whether these are the clicks of ``other``, or these and more, with the same box."""
        same_box = np.array_equal(self.box if self.box is not None else (), other.box if other.box is not None else ())
        starts = (
            len(mine) >= len(theirs) and np.array_equal(mine[: len(theirs)], theirs)
            for mine, theirs in ((self.inside, other.inside), (self.outside, other.outside))
        )
        return same_box and all(starts)


@dataclass(frozen=True, eq=False)
class _Answer:
    """An answer ``[D, H, W]``, eight voxels a byte."""

    clicks: Clicks
    bits: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, clicks: Clicks, inside: Tensor) -> _Answer:
        return cls(clicks, np.packbits(inside.numpy()), tuple(inside.shape))

    @property
    def inside(self) -> Tensor:
        count = int(np.prod(self.shape))
        return torch.from_numpy(np.unpackbits(self.bits, count=count).astype(bool).reshape(self.shape))


@dataclass(eq=False)
class Dialogue:
    """The answers to a person's clicks on one structure, each to one click more than the answer before it."""

    _answers: list[_Answer] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Memory of the answers."""
        return sum(answer.bits.nbytes for answer in self._answers)

    def recall(self, clicks: Clicks) -> tuple[Tensor | None, bool]:
        """The answer ``[D, H, W]`` to these clicks, or to the most of them; and whether it was to all of them.

        What was said beyond them is forgotten: it was taken back.
        """
        while self._answers and not clicks.extends(self._answers[-1].clicks):
            self._answers.pop()
        if not self._answers:
            return None, False
        last = self._answers[-1]
        return last.inside, last.clicks.count == clicks.count

    def add(self, clicks: Clicks, inside: Tensor) -> None:
        """Note an answer; the oldest ones are forgotten."""
        self._answers = [*self._answers, _Answer.of(clicks, inside)][-_MOST_ANSWERS:]
