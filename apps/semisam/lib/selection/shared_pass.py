"""A pass over scans, each process its share; what is found goes to the first one every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from lib.core.errors import UserError
from lib.parallel.ranks import LostRankError, Ranks

from .judge import Asked, Judge
from .outcome import Outcome, score

SAVE_SECONDS = 20.0
"""How long each process works before all meet. A scan of two minutes lets the others wait so much longer, now and then:
shares stay the same, whoever is fast."""

Keep = Callable[[Sequence[Outcome]], None]
Done = Callable[[int], None]


@dataclass(frozen=True)
class _Part:
    """What one process has done until all meet.

    Args:
        outcomes: of its scans.
        ended: whether none of its scans is left.
        error: text and status of what would hit all other scans, too.
    """

    outcomes: Sequence[Outcome]
    ended: bool = False
    error: tuple[str, int] | None = None


def score_scans(
    asked: Iterable[Asked], judge: Judge, *, keep: Keep, done: Done | None = None, ranks: Ranks | None = None
) -> None:
    """Score scans, each process its share; what is found of a scan does not depend on how many they are.

    Args:
        asked: the scans, the same for all processes. One process alone asks for each when it comes to it.
        judge: this process's.
        keep: called in the first process with what all have found meanwhile; what it kept survives a kill.
        done: called after each scan of this process with how many all have done by then, if they are as fast.
        ranks: the processes, None for one alone.

    Raises:
        UserError: (409, 507) when something would hit every scan: after what all have found was kept; what ``keep``
            raises; when another process has ended.
    """
    ranks = ranks or Ranks()
    own = islice(iter(asked), ranks.rank, None, ranks.world)
    ended = False
    while not ended:
        parts = ranks.gather(_work(own, judge, lambda: done and done(ranks.world)))
        _keep(parts, keep, ranks)
        for error in (part.error for part in parts if part.error is not None):
            raise UserError(error[0], status=error[1])
        ended = all(part.ended for part in parts)


def _work(own: Iterator[Asked], judge: Judge, done: Callable[[], object]) -> _Part:
    """Score some of this process's scans."""
    outcomes: list[Outcome] = []
    until = time.monotonic() + SAVE_SECONDS
    try:
        for asked in own:
            outcomes.append(score(asked, judge))
            done()
            if time.monotonic() > until:
                return _Part(outcomes)
    except LostRankError:
        raise
    except UserError as error:
        return _Part(outcomes, error=(str(error), error.status))
    return _Part(outcomes, ended=True)


def _keep(parts: Sequence[_Part], keep: Keep, ranks: Ranks) -> None:
    outcomes = [outcome for part in parts for outcome in part.outcomes]
    if outcomes:
        ranks.once(lambda: keep(outcomes))
