"""Cross-validation over the scans without a human label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib.training.sample import Sample
from lib.training.sampling import SampleSource


@dataclass(frozen=True)
class Fold:
    """One training of a round.

    Args:
        number: of the training, from 0.
        held_out: names of the scans that it does not see, in order; its networks predict them.
    """

    number: int
    held_out: tuple[str, ...]


def choose_folds(names: Sequence[str], trainings: int, seed: int) -> list[Fold]:
    """One fold for each training, so that every scan is held out at least once.

    With fewer scans than trainings each scan is a fold of its own, and the folds are trained again with other random
    numbers until the number of trainings is reached: a scan is then predicted by several networks. Without any scan
    nothing is held out.

    Args:
        names: of the scans.
        trainings: trainings of a round.
        seed: of the partition.
    """
    count = min(trainings, len(names))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    parts = [tuple(sorted(names[n] for n in order[part::count])) for part in range(count)] or [()]
    return [Fold(number, parts[number % len(parts)]) for number in range(trainings)]


class FoldSource:
    """A ``SampleSource`` without the scans of a fold.

    Args:
        source: all scans.
        fold: what is left out.
    """

    def __init__(self, source: SampleSource, fold: Fold) -> None:
        self._source = source
        self._held_out = frozenset(fold.held_out)

    def human(self) -> Sequence[str]:
        """Names of scans with a human label."""
        return self._source.human()

    def pseudo(self) -> Sequence[str]:
        """Names of scans with a pseudo-label that are not held out."""
        return [name for name in self._source.pseudo() if name not in self._held_out]

    def sample(self, name: str) -> Sample:
        """A scan that is not held out.

        Raises:
            KeyError: for a scan of the fold.
        """
        if name in self._held_out:
            raise KeyError(f"{name} is held out")
        return self._source.sample(name)
