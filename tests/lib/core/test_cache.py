"""Results of something slow are kept, errors for a while."""

from __future__ import annotations

import pytest
from cachetools import TTLCache

from lib.core import cache
from lib.core.cache import Recent
from lib.core.errors import UserError


def test_a_result_is_made_once_and_the_least_recently_used_goes_first() -> None:
    made: list[str] = []
    recent: Recent[str] = Recent(2)
    for key in ("a", "b", "a", "c", "a", "b"):

        def make(key: str = key) -> str:
            made.append(key)
            return key

        assert recent.get(key, make) == key
    assert made == ["a", "b", "c", "b"]


def test_an_error_is_remembered_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    tries: list[float] = []

    def timed(most: int, seconds: float) -> TTLCache[object, UserError]:
        return TTLCache(most, seconds, timer=lambda: now)

    def broken() -> str:
        tries.append(now)
        raise UserError("not now", status=422)

    monkeypatch.setattr(cache, "TTLCache", timed)
    recent: Recent[str] = Recent(2)
    for moment in (0.0, 29.0, 31.0):
        now = moment
        with pytest.raises(UserError, match="not now") as found:
            recent.get("a", broken)
        assert found.value.status == 422
    assert tries == [0.0, 31.0]
    now = 70.0
    assert recent.get("a", lambda: "there") == "there"
