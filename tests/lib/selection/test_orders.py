"""The rules of the strategies: which scan is wanted most."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lib.selection import by_coverage, by_uncertainty_and_coverage, by_value, evenly, worst_label_first


def directions(**values: Sequence[float]) -> dict[str, Tensor]:
    return {name: torch.nn.functional.normalize(torch.tensor(v), dim=0) for name, v in values.items()}


def test_largest_value_first_unknown_last_equal_ones_by_name() -> None:
    names = ["e", "d", "c", "b", "a"]
    assert by_value(names, {"b": 0.5, "d": 0.5, "c": 0.9}) == ["c", "b", "d", "a", "e"]
    assert by_value(names, {"c": 0.9}, {"e": 0.2, "a": 0.1, "c": 0.0}) == ["c", "e", "a", "b", "d"]


def test_coverage_takes_the_middle_of_what_nothing_stands_for() -> None:
    looks = directions(a=[1.0, 0.0, 0.0], b=[1.0, 0.1, 0.0], c=[0.0, 0.2, 1.0], d=[0.0, 0.0, 1.0], e=[0.0, -0.2, 1.0])
    names = ["x", "b", "c", "d", "e"]
    typical = {"b": 0.3, "c": 0.8, "e": 0.9}
    assert by_coverage(names, looks, ["a"], typical) == ["d", "e", "c", "b", "x"]
    assert by_coverage(names, looks, ["d"], typical)[0] == "d"  # asked for again: it does not stand in its own way
    assert by_coverage(["y", "x"], looks, [], {}) == ["x", "y"]


def test_recommended_covers_the_most_doubtful_quarter() -> None:
    uncertainties = {f"s{n}": 0.1 * n for n in range(8)}
    asked: list[list[str]] = []

    def cover(names: Sequence[str]) -> list[str]:
        asked.append(list(names))
        return sorted(names)

    order, among = by_uncertainty_and_coverage(["new", *uncertainties], uncertainties, cover)
    assert asked == [["s7", "s6"]]
    assert among == 2
    assert order == ["s6", "s7", "s5", "s4", "s3", "s2", "s1", "s0", "new"]
    assert by_uncertainty_and_coverage(["s1", "s2", "s3"], uncertainties, cover) == (["s3", "s2", "s1"], 1)


def test_worst_label_first() -> None:
    quality = {"a": 0.9, "b": 0.4, "gone": 0.0}
    names = ["a", "b", "c", "d", "gone"]
    order = worst_label_first(names, quality, {"a", "b", "c", "d"}, {"d": 0.7, "c": 0.2, "gone": 0.9})
    assert order == ["b", "a", "d", "c", "gone"]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8, 13])
def test_the_even_walk_names_each_once(count: int) -> None:
    names = [f"{n:02d}" for n in range(count)]
    assert sorted(evenly(names)) == names


def test_the_even_walk_goes_far_first() -> None:
    assert "".join(evenly("01234567")) == "04261537"
