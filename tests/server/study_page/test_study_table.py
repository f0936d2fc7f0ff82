"""Scans are found, filtered and sorted; a page of them is given."""

from __future__ import annotations

import time

from server.study_page.scan_rows import ScanRow, State
from server.study_page.study_table import Question, page_of


def row(name: str, state: State = "none", **more: object) -> ScanRow:
    return ScanRow(name, name, "", "", state, "", **more)  # type: ignore[arg-type]


ROWS = [
    row("case_10", "carried", quality=0.9, saved=300, volumes={"ball": 3.0}),
    row("case_2", "outlined", by="Änne", saved=100),
    row("case_1", "carried", quality=0.4, saved=200, volumes={"ball": 9.0}, review=("estimated quality 0.40",)),
    row("other", "left_out"),
]


def names(**asked: object) -> list[str]:
    return list(page_of(ROWS, Question(**asked)).names)  # type: ignore[arg-type]


def test_names_are_sorted_by_their_numbers() -> None:
    assert names() == ["case_1", "case_2", "case_10", "other"]
    assert names(descending=True) == ["other", "case_10", "case_2", "case_1"]


def test_what_is_not_known_comes_last_in_both_directions() -> None:
    assert names(order="quality") == ["case_1", "case_10", "case_2", "other"]
    assert names(order="quality", descending=True)[:2] == ["case_10", "case_1"]
    assert names(order="volume", structure="ball", descending=True)[:2] == ["case_1", "case_10"]
    assert names(order="saved")[:3] == ["case_2", "case_1", "case_10"]


def test_filters_and_search() -> None:
    assert names(state="carried") == ["case_1", "case_10"]
    assert names(state="done") == ["case_2"]
    assert names(state="open") == ["case_1", "case_10", "other"]
    assert names(state="review") == ["case_1"]
    assert names(search="CASE 1") == ["case_1", "case_10"]
    assert names(search="änne") == ["case_2"]
    assert names(search=".*") == []


def test_counts_are_of_all_scans() -> None:
    page = page_of(ROWS, Question(search="other"))
    assert page.found == 1
    assert {key: page.counts[key] for key in ("all", "done", "open", "labelled", "review", "carried")} == {
        "all": 4,
        "done": 1,
        "open": 3,
        "labelled": 2,
        "review": 1,
        "carried": 2,
    }


def test_a_page_beyond_the_end_is_the_last_one() -> None:
    many = [row(f"case_{number}") for number in range(3000)]
    begun = time.perf_counter()
    page = page_of(many, Question(page=1000, size=50))
    assert time.perf_counter() - begun < 1
    assert (page.page, page.pages, page.found, len(page.rows)) == (60, 60, 3000, 50)
    assert page.rows[-1].name == "case_2999"
    assert page_of([], Question(page=4)).pages == 1
