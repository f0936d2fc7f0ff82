"""At which round and network a killed run goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from .context import Context
from .repair import repair_prepared
from .report import FinishedRound

log = logging.getLogger("semisam.train")


@dataclass(frozen=True)
class Resumed:
    """Where a killed run goes on.

    Args:
        last: the last finished round whose files are whole, None without one.
        damaged: what is wrong with later ones, by round.
    """

    last: FinishedRound | None
    damaged: Mapping[int, str]

    @property
    def index(self) -> int | None:
        """The round that is worked on next, None for a run from the start."""
        return None if self.last is None else self.last.index + 1

    def note(self) -> str:
        """In words; empty for a run from the start."""
        reasons = " and ".join(f"round {index} ({reason})" for index, reason in sorted(self.damaged.items()))
        again = f": the files of {reasons} were damaged, and what follows is made again" if reasons else ""
        if self.last is None:
            return f"Training started again{again}." if again else ""
        return f"Training continued after round {self.last.index}{again}."


def resume(run: Context) -> Resumed:
    """Take up the last finished round of a killed run; those whose files are damaged are dropped and made again."""
    index, damaged = run.ranks.once(lambda: _last_whole_round(run))
    last = run.take_up(index)
    if last is not None:
        repair_prepared(run)
    return Resumed(last, damaged)


def _last_whole_round(run: Context) -> tuple[int | None, dict[int, str]]:
    """The last finished round whose files are whole, and what was wrong with later ones, which are dropped."""
    damaged: dict[int, str] = {}
    for index in run.folder.finished_rounds():
        damage = run.damage_of(index)
        if damage is None:
            break
        damaged[index] = damage
        log.warning("round %d of %s is damaged and will be made again: %s", index, run.folder.path.name, damage)
    if damaged:
        run.folder.drop_rounds(min(damaged))
    return run.folder.finished_round(), damaged
