"""Values that are worth keeping while there is memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The most recently used values, up to a number of bytes; the latest one is always kept.

    Args:
        most: bytes.
        size: of a value in bytes; it may grow while the value is kept.
    """

    def __init__(self, most: int, size: Callable[[T], int]) -> None:
        self._most = most
        self._size = size
        self._items: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Hashable) -> T | None:
        """The value of ``key``, None when it is not there."""
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def clear(self) -> None:
        """Let go of everything."""
        self._items.clear()

    def drop(self, key: Hashable) -> None:
        """Let go of a value, if it is there."""
        self._items.pop(key, None)

    def put(self, key: Hashable, value: T) -> T:
        """Keep a value, and let go of others when there are too many."""
        self._items[key] = value
        self._items.move_to_end(key)
        used = sum(self._size(v) for v in self._items.values())
        while used > self._most and len(self._items) > 1:
            _, old = self._items.popitem(last=False)
            used -= self._size(old)
        return value
