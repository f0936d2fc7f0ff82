"""The scans that each of several processes draws its windows from."""

from __future__ import annotations

from collections.abc import Sequence

from lib.parallel.ranks import Ranks

from .sample import Sample
from .sampling import SampleSource

_LEAST = 4
"""Scans of a share at least. Shares differ by one scan, whose windows are then drawn less often than others."""


class SharedScans:
    """A ``SampleSource`` of one process's share of another source's scans; in a small study, of all of them.

    With shares, each scan is read by one process, and a generalist that helps is asked about it by this process only.

    Args:
        source: the scans, the same in all processes.
        ranks: the processes.
    """

    def __init__(self, source: SampleSource, ranks: Ranks) -> None:
        self._source = source
        self._ranks = ranks

    def human(self) -> Sequence[str]:
        """Names of this process's scans with a human label."""
        return self._share(self._source.human())

    def pseudo(self) -> Sequence[str]:
        """Names of this process's scans with a pseudo-label that is of use."""
        return self._share(self._source.pseudo())

    def sample(self, name: str) -> Sample:
        """The scan ``name``."""
        return self._source.sample(name)

    def _share(self, names: Sequence[str]) -> Sequence[str]:
        return self._ranks.share(names) if len(names) >= _LEAST * self._ranks.world else names
