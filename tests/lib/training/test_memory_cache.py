"""The cache whose size is counted in bytes."""

from __future__ import annotations

import pytest

from lib.training.memory_cache import MemoryLimitedCache


def test_the_value_that_was_used_longest_ago_makes_room() -> None:
    cache: MemoryLimitedCache[int] = MemoryLimitedCache(10, lambda value: value)
    cache["a"], cache["b"] = 4, 5
    assert cache["a"] == 4
    cache["c"] = 6
    assert list(cache) == ["a", "c"]


@pytest.mark.parametrize("most", [0, 10])
def test_the_latest_value_is_kept_even_if_it_is_too_large(most: int) -> None:
    cache: MemoryLimitedCache[int] = MemoryLimitedCache(most, lambda value: value)
    cache["large"] = 50
    assert cache.get("large") == 50
    cache["small"] = 1
    assert (cache.get("large"), cache.get("small"), len(cache)) == (None, 1, 1)
