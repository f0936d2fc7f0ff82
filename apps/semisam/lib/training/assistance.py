"""Generalists that help to train a specialist: their answers about a scan are cut along with its windows.

A generalist would have to encode every deformed window afresh. Instead it is prompted with the specialist's current
prediction of the whole scan and answers on the scan's own grid, whose encoding can be kept; the answer is deformed
together with the scan. It is asked again when the specialist has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lib.specialists.regularisers import Observation

from .sample import Sample
from .sampling import SampleSource

Predict = Callable[[Tensor], Tensor]
"""The network in its present state: ``[inputs, D, H, W]`` to probabilities ``[1 + N, D, H, W]`` on the CPU."""


class Assistant(Protocol):
    """Adds maps to every scan, and a loss on them."""

    channels: int
    """K, the number of maps."""

    def start(self, predict: Predict, steps: int, generator: torch.Generator) -> None:
        """Prepare for a training.

        Args:
            predict: the network in training.
            steps: steps of the whole training.
            generator: source of all random numbers (CPU).
        """
        ...

    def maps(self, name: str, sample: Sample, step: int) -> Tensor:
        """The maps of a scan, ``[K, D, H, W]``; called each time a window is drawn from it.

        Args:
            name: the scan's name.
            sample: the scan on the specialist's grid.
            step: steps done.
        """
        ...

    def label(self, sample: Sample, maps: Tensor) -> tuple[Tensor, Tensor]:
        """What is learned as the label of a scan, and how much each voxel counts; usually what the scan has.

        Args:
            sample: the scan with its label.
            maps: of the scan, as ``maps`` gave them.

        Returns:
            ``[1 + N, D, H, W]``, sum 1, and ``[1, D, H, W]`` in 0..1.
        """
        ...

    def loss(self, seen: Observation) -> tuple[Tensor, dict[str, float]]:
        """The term to add to the loss, already weighted, and what to log; ``seen.extra`` holds the maps."""
        ...


class AssistedSource:
    """A ``SampleSource`` whose samples bring an assistant's maps.

    Args:
        source: the scans.
        assistant: asked about each scan that is drawn.
    """

    def __init__(self, source: SampleSource, assistant: Assistant) -> None:
        self._source = source
        self._assistant = assistant
        self.step = 0
        """Steps done; the training keeps it up to date."""

    def human(self) -> Sequence[str]:
        """Names of scans with a human label."""
        return self._source.human()

    def pseudo(self) -> Sequence[str]:
        """Names of scans with a pseudo-label that is of use."""
        return self._source.pseudo()

    def sample(self, name: str) -> Sample:
        """The scan ``name`` with the assistant's maps, and the label that it makes of them."""
        sample = self._source.sample(name)
        maps = self._assistant.maps(name, sample, self.step)
        target, weight = self._assistant.label(sample, maps)
        return Sample(sample.image, target, weight, maps)
