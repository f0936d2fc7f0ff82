"""A cache whose size is counted in bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

T = TypeVar("T")


class MemoryLimitedCache(LRUCache[Hashable, T], Generic[T]):
    """The most recently used values up to a number of bytes; the latest value is kept even if it is larger.

    Args:
        most: bytes.
        size: gives the bytes of a value. It is asked when a value is put in; put a value in again when it has grown.
    """

    def __init__(self, most: int, size: Callable[[T], int]) -> None:
        limit = max(1, most)
        super().__init__(limit, lambda value: min(limit, size(value)))
