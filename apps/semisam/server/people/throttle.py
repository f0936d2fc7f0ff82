"""Wrong passwords slow down whoever gives them, and nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

from cachetools import TTLCache

_FREE = 5
"""Wrong passwords before the first wait."""
_MOST_SECONDS = 60.0
_FORGET_SECONDS = 900.0
_MOST_KEYS = 20_000


class Throttle:
    """Counts wrong passwords.

    Args:
        clock: seconds, ever rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: TTLCache[Hashable, tuple[int, float]] = TTLCache(_MOST_KEYS, _FORGET_SECONDS, timer=clock)
        self._lock = threading.Lock()

    def seconds_left(self, key: Hashable) -> float:
        """How long the next try has to wait, 0 when it need not.

        Args:
            key: who tries: an address and a user's name, so that nobody is kept out by what others do.
        """
        with self._lock:
            count, last = self._failed.get(key, (0, 0.0))
        if count < _FREE:
            return 0.0
        wait = min(_MOST_SECONDS, 2.0 ** min(count - _FREE, 10))
        return max(0.0, last + wait - self._clock())

    def failed(self, key: Hashable) -> None:
        """Note a wrong password."""
        with self._lock:
            count, _ = self._failed.get(key, (0, 0.0))
            self._failed[key] = (count + 1, self._clock())

    def passed(self, key: Hashable) -> None:
        """Forget wrong passwords: the right one has come."""
        with self._lock:
            self._failed.pop(key, None)
