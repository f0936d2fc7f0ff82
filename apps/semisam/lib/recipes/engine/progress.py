"""Progress of a run, reported to the log at least every few seconds, and to the observer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from .report import Observer, Progress

log = logging.getLogger("semisam.train")

LOG_EVERY = 5.0
"""Seconds between progress lines; a heartbeat repeats the last line when a single step takes longer than 9 s."""

QUESTIONS = "questions"
"""Work that is done within a training: foundation models answer about whole scans."""

_HEARTBEAT = 9.0
_FIRST_GUESS = {"preparation": 0.5, "propagation": 4.0, "training": 0.5, "prediction": 1.0, "refinement": 1.0}


@dataclass
class _Stage:
    """One kind of work: units to do in the whole run, units done, and seconds they took."""

    total: int = 0
    done: int = 0
    seconds: float = 0.0
    measured: int = 0

    def left(self, guess: float) -> float:
        per_unit = self.seconds / self.measured if self.measured else guess
        return max(0, self.total - self.done) * per_unit


@dataclass
class Reporter:
    """Counts the work of a run.

    Args:
        observer: who is told besides the log.
        rounds: last round.
        epochs: epochs of a round.
        work: units of work of each stage over the whole run.
        note: see ``Progress``.
    """

    observer: Observer
    rounds: int
    epochs: int
    work: Mapping[str, int]
    best_metric: float = 0.0
    note: str = ""
    _stages: dict[str, _Stage] = field(default_factory=dict)
    _round: int = 0
    _epoch: int = 0
    _line: str = ""
    _logged: float = 0.0
    _told: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._stages = {name: _Stage(total=total) for name, total in self.work.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="semisam-heartbeat", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def begin(self, stage: str, index: int) -> None:
        """A stage of the round ``index`` starts."""
        self._round = index
        self._last = time.monotonic()
        self._tell(stage, {}, force=True)

    def resume(self, finished: int, scans: int, steps: int) -> None:
        """Count the work that a killed run has done: rounds up to ``finished``, each over ``scans`` and ``steps``."""
        self._stages["propagation"].done = self._stages["propagation"].total
        self._stages["training"].done = finished * steps
        self.settle(finished / self.rounds)
        self._stages["prediction"].done = self._stages["refinement"].done = finished * scans
        self._epoch = finished * self.epochs

    def skip(self, stage: str, units: int, epochs: int) -> None:
        """Count work of the current round that a killed run has done; ``epochs`` as in ``finished_epochs``."""
        self._stages[stage].done += units
        self._epoch = epochs

    def done(self, stage: str) -> int:
        """Units of a stage that are done."""
        return self._stages[stage].done

    def back(self, stage: str, done: int) -> None:
        """Count work as not done: it is done again. The time that it took stays known."""
        self._stages[stage].done = done

    def finished_epochs(self, epochs: int) -> None:
        """Epochs finished so far, over all rounds."""
        self._epoch = epochs

    def best(self, metric: float) -> None:
        """Take note of a metric; the highest one is reported."""
        self.best_metric = max(self.best_metric, float(metric))

    def advance(
        self, stage: str, metrics: Mapping[str, float] | None = None, *, force: bool = False, units: int = 1
    ) -> None:
        """One unit of a stage is done, or several, by processes that work side by side."""
        now = time.monotonic()
        entry = self._stages[stage]
        entry.done += units
        entry.measured += units
        entry.seconds += now - self._last
        self._last = now
        self._tell(stage, metrics or {}, force=force)

    def asked(self) -> None:
        """A foundation model has answered about a scan within a training, which stays the stage that is shown."""
        now = time.monotonic()
        entry = self._stages.setdefault(QUESTIONS, _Stage())
        entry.done += 1
        entry.measured += 1
        entry.seconds += now - self._last
        self._last = now

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole run."""
        return self.rounds * self.epochs

    def settle(self, share: float) -> None:
        """So much of all training is done, 0..1: what has not been asked by now will not be asked."""
        entry = self._stages.setdefault(QUESTIONS, _Stage())
        entry.done = max(entry.done, round(share * entry.total))

    def seconds_left(self) -> float:
        """Estimate for the whole run."""
        return sum(stage.left(_FIRST_GUESS.get(name, 1.0)) for name, stage in self._stages.items())

    def _tell(self, stage: str, metrics: Mapping[str, float], *, force: bool) -> None:
        now = time.monotonic()
        entry = self._stages[stage]
        left = self.seconds_left()
        shown = ", ".join(f"{k} {v:.3f}" for k, v in metrics.items())
        self._line = (
            f"round {self._round}/{self.rounds}, {stage} {entry.done}/{entry.total}, "
            f"epoch {self._epoch}/{self.total_epochs}, about {_clock(left)} left{f'; {shown}' if shown else ''}"
        )
        if force or now - self._logged >= LOG_EVERY:
            self._logged = now
            log.info("%s", self._line)
        if force or now - self._told >= 1.0:
            self._told = now
            self.observer.progress(
                Progress(
                    epoch=self._epoch,
                    total_epochs=self.total_epochs,
                    round=self._round,
                    rounds=self.rounds,
                    stage=stage,
                    best_metric=self.best_metric,
                    seconds_left=left,
                    metrics=dict(metrics),
                    note=self.note,
                )
            )

    def _beat(self) -> None:
        while not self._stop.wait(0.5):
            if time.monotonic() - self._logged >= _HEARTBEAT and self._line:
                self._logged = time.monotonic()
                log.info("%s (working)", self._line)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
