"""Who was given which scan to work on: a scan is not offered again at once, whether it was skipped or is in work.

Scans that are done are remembered for as long, so that the next one does not look like them.

MONAI Label notes the same at the image (``strategy``), but not with every datastore, and without a way to look it up
by time. So the app keeps a small file of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from lib.core.errors import UserError
from lib.core.files import write_whole
from server.store.study import Study

SECONDS = 2 * 60 * 60
"""For how long a scan that was offered is held back."""

_LOCK_SECONDS = 20


@dataclass(frozen=True)
class Offer:
    """One offer.

    Args:
        client: who asked; empty when the viewer does not say (OHIF).
        strategy: by which strategy.
        ts: when, seconds since 1970.
        done: whether its label has been saved since.
    """

    client: str
    strategy: str
    ts: float
    done: bool = False


class OfferedScans:
    """The offers of the last hours, and the scans that were done in them.

    Args:
        study: the study.
        clock: the time, seconds since 1970.
    """

    def __init__(self, study: Study, clock: Callable[[], float] = time.time) -> None:
        self._path = study.place / "served.json"
        self._clock = clock

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """Hold this from looking to marking, so that two people who ask at the same time get different scans.

        Raises:
            UserError: (409) when somebody else chooses for too long.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise UserError("The next scan is being chosen for somebody else. Ask again.", status=409) from error

    def marks(self) -> dict[str, Offer]:
        """The offers that still count, by scan, the oldest first."""
        return {name: mark for name, mark in self._read().items() if not mark.done}

    def recent(self) -> list[str]:
        """Scans that were offered or outlined in the last hours, the last one first."""
        return [*reversed(self._read())]

    def mark(self, name: str, client: str, strategy: str) -> None:
        """Note an offer; the caller is ``choosing``."""
        self._write({**self._read(), name: Offer(client, strategy, self._clock())})

    def done(self, name: str) -> None:
        """A scan's label has been saved, whether the scan was offered or not."""
        with self.choosing():
            marks = self._read()
            mark = marks.get(name, Offer("", "", 0.0))
            self._write({**marks, name: replace(mark, ts=self._clock(), done=True)})

    def forget(self, name: str) -> None:
        """A scan was deleted: another one of its name was offered to nobody."""
        if name in self._read():
            with self.choosing():
                self._write({n: mark for n, mark in self._read().items() if n != name})

    def _read(self) -> dict[str, Offer]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        now = self._clock()
        found: dict[str, Offer] = {}
        for name, entry in content.items() if isinstance(content, dict) else ():
            try:
                mark = Offer(str(entry["client"]), str(entry["strategy"]), float(entry["ts"]), bool(entry.get("done")))
            except (AttributeError, TypeError, KeyError, ValueError):
                continue
            if 0 <= now - mark.ts < SECONDS:
                found[name] = mark
        return dict(sorted(found.items(), key=lambda pair: pair[1].ts))

    def _write(self, marks: dict[str, Offer]) -> None:
        text = json.dumps({name: asdict(mark) for name, mark in marks.items()}, indent=1)
        write_whole(self._path, lambda name: Path(name).write_text(text, encoding="utf-8"))
