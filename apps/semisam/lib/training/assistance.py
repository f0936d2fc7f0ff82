"""Generalists that help while a specialist trains: what they say about a scan joins the scan's windows.

Asking a generalist about each deformed window would need a fresh encoding every time. Here the specialist's current
prediction of the whole scan is the prompt, the generalist answers once on the scan's own grid, where its encoding can
be kept, and the answer is deformed together with the scan. It is asked anew when the specialist has moved on.
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
"""The network in training, as it is now: ``[inputs, D, H, W]`` to probabilities ``[1 + N, D, H, W]`` on the CPU."""


class Assistant(Protocol):
    """Adds maps to every scan, and a loss on them."""

    channels: int
    """K, the number of maps."""

    def start(self, predict: Predict, steps: int, generator: torch.Generator) -> None:
        """Get ready for a training of ``steps`` steps.

        Args:
            predict: the network in training.
            steps: of the whole training.
            generator: source of all random numbers (CPU).
        """
        ...

    def maps(self, name: str, sample: Sample, step: int) -> Tensor:
        """What there is to say about a scan now, ``[K, D, H, W]``; called each time the scan is drawn.

        Args:
            name: of the scan.
            sample: the scan on the specialist's grid.
            step: steps done.
        """
        ...

    def loss(self, seen: Observation) -> tuple[Tensor, dict[str, float]]:
        """The term to add to the loss, already weighted, and what to log; ``seen.extra`` holds the maps."""
        ...


class AssistedSource:
    """A ``SampleSource`` whose samples bring an assistant's maps.

    Args:
        source: the scans.
        assistant: who is asked.
        step: gives the number of steps done.
    """

    def __init__(self, source: SampleSource, assistant: Assistant, step: Callable[[], int]) -> None:
        self._source = source
        self._assistant = assistant
        self._step = step

    def human(self) -> Sequence[str]:
        """See ``SampleSource``."""
        return self._source.human()

    def pseudo(self) -> Sequence[str]:
        """See ``SampleSource``."""
        return self._source.pseudo()

    def sample(self, name: str) -> Sample:
        """See ``SampleSource``."""
        sample = self._source.sample(name)
        return Sample(sample.image, sample.target, sample.weight, self._assistant.maps(name, sample, self._step()))
