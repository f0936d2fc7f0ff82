"""Networks of a round that is not finished: a killed run takes them up instead of training again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lib.core.errors import UserError
from lib.specialists.checkpoint import load_specialist, save_specialist
from lib.specialists.networks import SpecialistNetwork
from lib.training.loop import Trained, TrainingPlan

from .context import Context

log = logging.getLogger("semisam.train")

KEPT_TRAININGS = "training-*.pt"
"""Their files in the round's folder; ``record.PASSING`` has them removed when the round has ended."""


@dataclass(frozen=True)
class TrainingNumber:
    """Which training of a run.

    Args:
        round: its round, from 1.
        number: in the round, from 0.
        count: trainings of a round.
    """

    round: int
    number: int = 0
    count: int = 1

    @property
    def before(self) -> int:
        """Trainings of the run before it."""
        return (self.round - 1) * self.count + self.number

    def seed(self, seed: int) -> int:
        """Seed of the training in a run with the seed ``seed``; a round that has one seed has its first one."""
        return seed * 1009 + self.round + self.number * 101


class KeptTraining:
    """The file of one training.

    Args:
        run: the run.
        number: which training of the run it is.
        plan: how it trains.
    """

    def __init__(self, run: Context, number: TrainingNumber, plan: TrainingPlan) -> None:
        self._run = run
        self._index = number.round
        self._plan = plan
        self._training = number.number
        self._epochs = (number.before + 1) * plan.epochs

    def take_up(self) -> Trained | None:
        """What the training gave, None when it has not ended yet; its work counts as done."""
        run = self._run
        if not run.ranks.once(self._is_whole):
            return None
        specialist = load_specialist(self._file(), run.options.device)
        for entry in run.history.read():
            if (entry.round, entry.training) == (self._index, self._training) and "agreement" in entry.metrics:
                run.reporter.best(entry.metrics["agreement"])
        log.info("training %d of round %d had ended before", self._training + 1, self._index)
        run.reporter.skip("training", self._plan.steps, self._epochs)
        notes = specialist.notes
        members = cast("tuple[SpecialistNetwork, ...]", specialist.members)
        return Trained(members, float(str(notes["agreement"])), cast("list[int]", notes["missed"]))

    def keep(self, trained: Trained) -> None:
        """Write what the training gave."""
        run = self._run
        notes = {"agreement": trained.agreement, "missed": list(trained.missed)}
        run.ranks.once(lambda: save_specialist(self._file(), run.study.spec, trained.members, notes))

    def _file(self) -> Path:
        return self._run.folder.open_round(self._index) / f"training-{self._training}.pt"

    def _is_whole(self) -> bool:
        if not self._file().is_file():
            return False
        try:
            found = load_specialist(self._file())
        except UserError as error:
            log.warning("training %d of round %d is repeated: %s", self._training + 1, self._index, error)
            return False
        return found.spec == self._run.study.spec and {"agreement", "missed"} <= found.notes.keys()
