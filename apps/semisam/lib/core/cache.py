"""A small memory for the results of something slow."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

from .errors import UserError

_ERROR_SECONDS = 30.0

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The last few results of something slow; errors that a user can put right are remembered for a while.

    Not for ever: a file that could not be read for a moment does not change when it can be read again.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._errors: dict[Hashable, tuple[UserError, float]] = {}

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The result for ``key``, made now if it is not kept."""
        if key not in self._kept:
            error, at = self._errors.get(key, (None, 0.0))
            if error is not None and time.monotonic() - at < _ERROR_SECONDS:
                raise UserError(str(error), status=error.status)
            try:
                self._kept[key] = make()
            except UserError as found:
                if len(self._errors) >= self._most:
                    self._errors.clear()
                self._errors[key] = found, time.monotonic()
                raise
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def stamp_of(path: Path) -> tuple[str, int, int]:
    """Path, time and size: changes when the file does."""
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), status.st_mtime_ns, status.st_size
