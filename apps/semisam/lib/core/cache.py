"""A cache of the last few results of something slow, errors included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

from cachetools import LRUCache, TTLCache

from .errors import UserError

_ERROR_SECONDS = 30.0

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The last few results of something slow; errors that a user can put right are remembered for a while.

    Not for ever: a file that could not be read for a moment does not change when it can be read again. Safe for
    threads; two that ask for the same result at once may both make it.

    Args:
        most: how many are kept; the least recently used go first.
    """

    def __init__(self, most: int) -> None:
        self._kept: LRUCache[Hashable, Value] = LRUCache(most)
        self._errors: TTLCache[Hashable, UserError] = TTLCache(most, _ERROR_SECONDS)
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The result for ``key``, made now if it is not kept.

        Raises:
            UserError: that ``make`` raises, or has raised within the last half minute.
        """
        with self._lock:
            if key in self._kept:
                return self._kept[key]
            error = self._errors.get(key)
        if error is not None:
            raise UserError(str(error), status=error.status)
        try:
            made = make()
        except UserError as found:
            with self._lock:
                self._errors[key] = found
            raise
        with self._lock:
            self._kept[key] = made
        return made


def stamp_of(path: Path) -> tuple[str, int, int]:
    """Path, time and size: changes when the file does."""
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), status.st_mtime_ns, status.st_size
