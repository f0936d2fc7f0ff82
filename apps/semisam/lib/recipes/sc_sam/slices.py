"""Single slices to train on: of scans with a human label, and of all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lib.training.sample import Sample

_AIMED = 0.7
"""Share of the labelled slices that are drawn for holding a structure, each structure as often as the others."""


class Scans(Protocol):
    """What is known about the scans; ``PreparedStudy`` is one."""

    def human(self) -> Sequence[str]:
        """Names of scans with a human label."""
        ...

    def unlabelled(self) -> Sequence[str]:
        """Names of all other scans."""
        ...

    def sample(self, name: str) -> Sample:
        """A scan with its human label."""
        ...

    def image(self, name: str) -> Tensor:
        """A scan ``[inputs, D, H, W]``, with or without a label."""
        ...


class SliceSource:
    """A ``SampleSource`` whose samples are single slices; those without a label have weight 0.

    Annotated slices only are drawn from a human label that is sparse (``Sample.weight``).

    Args:
        scans: the study.
        channels: C, structures and background.
        axis: 0, 1 or 2 of D, H, W: what the slices lie across.
        generator: draws the slices.
    """

    def __init__(self, scans: Scans, channels: int, axis: int, generator: torch.Generator) -> None:
        self._scans = scans
        self._channels = channels
        self._axis = axis
        self._generator = generator
        self._held: dict[str, Tensor] = {}

    def human(self) -> Sequence[str]:
        """Names of scans with a human label."""
        return self._scans.human()

    def pseudo(self) -> Sequence[str]:
        """The scans without a label: their targets are made while training."""
        return self._scans.unlabelled()

    def sample(self, name: str) -> Sample:
        """A slice of the scan, as a scan of one slice."""
        if name in self._scans.human():
            whole = self._scans.sample(name)
            at = self._choose(name, whole)
            return Sample(self._cut(whole.image, at), self._cut(whole.target, at), self._cut(whole.weight, at))
        image = self._scans.image(name)
        image = self._cut(image, self._draw(image.shape[1 + self._axis]))
        nothing = image.new_zeros(self._channels, *image.shape[1:])
        nothing[0] = 1
        return Sample(image, nothing, image.new_zeros(1, *image.shape[1:]))

    def _choose(self, name: str, whole: Sample) -> int:
        """Which slice to draw from a labelled scan."""
        slices_of = self._held.get(name)
        if slices_of is None:
            slices_of = self._held[name] = _held_by_slice(whole, self._axis)
        present = slices_of[1:].any(dim=1).nonzero()[:, 0]
        if len(present) and float(torch.rand(1, generator=self._generator)) < _AIMED:
            row = slices_of[1 + int(present[self._draw(len(present))])]
        else:
            row = slices_of[0]
        slices = row.nonzero()[:, 0]
        return int(slices[self._draw(len(slices))])

    def _cut(self, values: Tensor, at: int) -> Tensor:
        return values.narrow(1 + self._axis, at, 1)

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (1,), generator=self._generator))


def _held_by_slice(whole: Sample, axis: int) -> Tensor:
    """``[C, slices]`` boolean: first, whether the slice is annotated, then which structures it holds.

    Where only some planes of a scan are annotated, a plane across the slices leaves one line in each of them: slices of
    which less is annotated than half of the best one's do not count.
    """
    others = [a for a in range(3) if a != axis]
    annotated = whole.weight[0] > 0
    share = annotated.float().mean(dim=others, keepdim=True)
    annotated = annotated & (share >= 0.5 * share.max())
    classes = whole.target.argmax(dim=0)
    rows = [annotated]
    rows += [annotated & (classes == c) for c in range(1, len(whole.target))]
    return torch.stack([row.any(dim=others[1]).any(dim=others[0]) for row in rows])
