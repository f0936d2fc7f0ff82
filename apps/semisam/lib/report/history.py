"""What a run's training logged, epoch by epoch, as JSON lines that survive a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.core.files import write_whole


@dataclass(frozen=True)
class Entry:
    """One epoch.

    Args:
        round: of the run, from 1.
        training: number of the training in the round, from 0.
        epoch: of the training, from 1.
        metrics: means over the epoch's steps, by name.
    """

    round: int
    training: int
    epoch: int
    metrics: Mapping[str, float]


class History:
    """The epochs of a run.

    Args:
        path: the file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, entry: Entry) -> None:
        """Append an epoch."""
        line = json.dumps([entry.round, entry.training, entry.epoch, {k: float(v) for k, v in entry.metrics.items()}])
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self) -> list[Entry]:
        """All epochs, in order; a line that a kill has cut, or that is damaged, is left out."""
        if not self._path.is_file():
            return []
        found = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                number, training, epoch, metrics = json.loads(line)
                values = {str(name): float(value) for name, value in dict(metrics).items()}
                found.append(Entry(int(number), int(training), int(epoch), values))
            except (ValueError, TypeError):
                continue
        return found

    def forget(self, index: int, training: int = 0) -> None:
        """Drop the epochs of this training of round ``index`` and of all later ones: they will be made again."""
        kept = [e for e in self.read() if (e.round, e.training) < (index, training)]
        lines = [json.dumps([e.round, e.training, e.epoch, dict(e.metrics)]) + "\n" for e in kept]
        write_whole(self._path, lambda name: Path(name).write_text("".join(lines), encoding="utf-8"))
