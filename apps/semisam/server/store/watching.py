"""The study's folder is watched: its list is made anew after changes, once for many of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler

from .label_notes import FOLDER

logger = logging.getLogger("semisam.store")

QUIET_SECONDS = 0.3
"""How long nothing must have happened before the study is looked at."""
MOST_SECONDS = 3.0
"""After which it is looked at all the same."""
_KINDS = ("created", "deleted", "moved", "modified", "closed")
_OWN = ("datastore_v2.json",)


class Watch(FileSystemEventHandler):
    """Calls ``look`` in a thread of its own after files came, went or changed.

    Args:
        look: looks at the study; returns the seconds after which it wants to look once more, None if it does not. An
            error in it is logged, and never ends the watching.
    """

    def __init__(self, look: Callable[[], float | None]) -> None:
        self._look = look
        self._due: float | None = None
        self._first = 0.0
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True, name="semisam-watch").start()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog for everything below the study."""
        if event.event_type not in _KINDS or (event.is_directory and event.event_type == "modified"):
            return
        paths = [Path(str(path)) for path in (event.src_path, event.dest_path) if path]
        if not all(p.name.startswith(".") or p.name in _OWN or FOLDER in p.parts for p in paths):
            self.wake(QUIET_SECONDS)

    def wake(self, seconds: float) -> None:
        """Look in so many seconds, or later when more happens until then."""
        with self._changed:
            now = time.monotonic()
            if self._due is None:
                self._first = now
            self._due = min(now + seconds, max(self._first + MOST_SECONDS, self._first + seconds))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._due is None:
                    self._changed.wait()
                left = self._due - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                self._due = None
            again: float | None = None
            try:
                again = self._look()
            except Exception as error:  # whatever it is: nobody would start the thread anew
                logger.warning("The study could not be looked at again (%s: %s)", type(error).__name__, error)
            if again is not None:
                with self._changed:
                    idle = self._due is None
                if idle:
                    self.wake(again)
