"""The scans as a table: found, filtered, sorted, and a page of them at a time."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .scan_rows import DONE, LABELLED, STATES, ScanRow

Order = Literal["name", "state", "quality", "saved", "volume"]
Filter = Literal["", "done", "open", "review", "sent_back", "outlined", "accepted", "trained", "carried", "stored",
                 "none", "unusable", "left_out"]  # fmt: skip
MOST_ON_PAGE = 200


@dataclass(frozen=True)
class Question:
    """What part of the table is wanted.

    Args:
        search: words that name, title or description hold, in any order.
        state: a state, ``done``, ``open``, ``review`` (a person should look) or ``sent_back``; empty for all.
        order: what the rows are sorted by; scans of which it is not known come last.
        descending: the largest first.
        structure: whose volume counts when they are sorted by ``volume``.
        page: from 1; the last one when there are fewer.
        size: rows of a page.
    """

    search: str = ""
    state: Filter = ""
    order: Order = "name"
    descending: bool = False
    structure: str = ""
    page: int = 1
    size: int = 50


@dataclass(frozen=True)
class TablePage:
    """A page of the table.

    Args:
        rows: its rows.
        page: its number, from 1.
        pages: how many there are, at least one.
        found: scans that were found, on all pages.
        counts: of all scans, those of each state, ``review`` and ``sent_back``.
        names: of the scans that were found, in order, on all pages.
    """

    rows: Sequence[ScanRow]
    page: int
    pages: int
    found: int
    counts: dict[str, int]
    names: Sequence[str]


def page_of(rows: Sequence[ScanRow], asked: Question) -> TablePage:
    """A page of the table."""
    found = [row for row in rows if _is_in(row, asked.state) and _holds(row, asked.search)]
    found = _sorted(found, asked)
    size = min(max(1, asked.size), MOST_ON_PAGE)
    pages = max(1, math.ceil(len(found) / size))
    page = min(max(1, asked.page), pages)
    shown = found[(page - 1) * size : page * size]
    return TablePage(shown, page, pages, len(found), counts_of(rows), [row.name for row in found])


def counts_of(rows: Sequence[ScanRow]) -> dict[str, int]:
    """How many scans there are of each state, and of those a person should look at."""
    states = Counter(row.state for row in rows)
    return {
        **{state: states[state] for state in STATES},
        "all": len(rows),
        "done": sum(states[state] for state in DONE),
        "open": len(rows) - sum(states[state] for state in DONE),
        "labelled": sum(states[state] for state in LABELLED),
        "review": sum(bool(row.review) for row in rows),
        "sent_back": sum(bool(row.sent_back) for row in rows),
    }


def _is_in(row: ScanRow, wanted: Filter) -> bool:
    if wanted in ("done", "open"):
        return (row.state in DONE) == (wanted == "done")
    if wanted == "review":
        return bool(row.review)
    if wanted == "sent_back":
        return bool(row.sent_back)
    return wanted in ("", row.state)


def _holds(row: ScanRow, search: str) -> bool:
    text = _plain(f"{row.name} {row.title} {row.about} {row.by}")
    return all(word in text for word in _plain(search).split())


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _sorted(rows: Sequence[ScanRow], asked: Question) -> list[ScanRow]:
    places = {state: number for number, state in enumerate(STATES)}
    keys: dict[Order, Callable[[ScanRow], float | None]] = {
        "state": lambda row: places[row.state],
        "quality": lambda row: row.quality,
        "saved": lambda row: row.saved or None,
        "volume": lambda row: row.volumes.get(asked.structure),
    }
    by_name = sorted(rows, key=lambda row: (_natural(row.title), row.name), reverse=asked.descending)
    if asked.order == "name":
        return by_name
    key = keys[asked.order]
    known = [row for row in by_name if key(row) is not None]
    known.sort(key=lambda row: key(row) or 0.0, reverse=asked.descending)
    return [*known, *(row for row in by_name if key(row) is None)]


def _natural(text: str) -> list[tuple[int, int, str]]:
    """``case_2`` before ``case_10``."""
    parts, digits = [], ""
    for sign in [*_plain(text), ""]:
        if sign.isdecimal():
            digits += sign
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, sign))
    return parts
