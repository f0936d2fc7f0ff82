"""Labels that a DICOM server could not be given are offered to it again, with growing pauses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

logger = logging.getLogger("semisam.dicomweb")

FIRST_SECONDS = 15.0
MOST_SECONDS = 600.0


class Retry:
    """Asks again as long as something is left.

    Args:
        unsent: what is left, with the reason, by name.
        send: tries to send what is left.
        first: seconds until the first attempt, and after each that got something through.
        most: seconds between two attempts at most.
    """

    def __init__(
        self,
        unsent: Callable[[], Mapping[str, str]],
        send: Callable[[], None],
        *,
        first: float = FIRST_SECONDS,
        most: float = MOST_SECONDS,
    ) -> None:
        self._unsent = unsent
        self._send = send
        self._first = first
        self._most = most
        self._end = threading.Event()

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, daemon=True, name="semisam-unsent").start()

    def end(self) -> None:
        """Ask no more."""
        self._end.set()

    def _run(self) -> None:
        pause = self._first
        while not self._end.wait(pause):
            try:
                pause = self._attempt(pause)
            except Exception:
                # Whatever it is must not end the attempts for good.
                logger.exception("Labels that are kept here only could not be sent")
                pause = min(2 * pause, self._most)

    def _attempt(self, pause: float) -> float:
        """Try once; returns the next pause."""
        before = len(self._unsent())
        if not before:
            return self._first
        self._send()
        left = self._unsent()
        if len(left) < before:
            logger.info("%d labels that were kept here only are on the DICOM server now", before - len(left))
        if left:
            reason = next(iter(left.values()))
            logger.warning("%d labels are still kept here only: %s", len(left), reason)
        return self._first if len(left) < before else min(2 * pause, self._most)
