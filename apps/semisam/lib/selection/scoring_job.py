"""The scoring that several processes share, as the first one tells it to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lib.parallel.ranks import Ranks
from lib.propagation.study_tools import Tools

from .judge import Asked, Basis, Judge
from .outcome import Outcome
from .shared_pass import score_scans


@dataclass(frozen=True)
class Job:
    """A pass over scans, as plain facts; see ``score_scans``.

    Args:
        asked: the scans.
        basis: what they are judged by.
        tools: generalist and propagator.
        device: where the first process works.
    """

    asked: Sequence[Asked]
    basis: Basis
    tools: Tools
    device: str

    def help(self, ranks: Ranks) -> None:
        """Do this process's share of the pass; the first process calls ``score_scans`` itself."""
        tools = self.tools
        tools.take_over_limits()
        judge = Judge(self.basis, tools.open_generalist(), tools.open_propagator(), ranks.device(self.device))
        score_scans(self.asked, judge, keep=_never, ranks=ranks)


def _never(outcomes: Sequence[Outcome]) -> None:
    """Only the first process keeps what was found."""
    raise AssertionError(outcomes)
