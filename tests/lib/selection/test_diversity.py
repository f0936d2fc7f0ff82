"""The next scan is not nearly the same as one served a short while ago."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lib.selection import pick


def study() -> dict[str, Tensor]:
    rows = normalize(torch.randn(12, 50, generator=torch.Generator().manual_seed(0)), dim=1)
    found = {f"s{n:02d}": row for n, row in enumerate(rows)}
    noise = torch.randn(50, generator=torch.Generator().manual_seed(1))
    found["twin of s00"] = normalize(rows[0] + 0.01 * noise, dim=0)
    return found


ORDER = ["twin of s00", "s03", "s05"]


def test_a_twin_of_a_recent_scan_is_passed_over() -> None:
    assert pick(ORDER, study(), ["s07", "s00"]) == "s03"


def test_without_recent_scans_the_first_is_taken() -> None:
    assert pick(ORDER, study(), []) == "twin of s00"
    assert pick(ORDER, study(), ["s07"]) == "twin of s00"
    assert pick(ORDER, study(), ["gone"]) == "twin of s00"


def test_scans_that_are_merely_alike_are_not_passed_over() -> None:
    found = study()
    found["like s00"] = normalize(found["s00"] + 0.7 * found["s01"], dim=0)
    assert pick(["like s00", "s03"], found, ["s00"]) == "like s00"


def test_what_is_nearly_identical_depends_on_the_study() -> None:
    close = {name: normalize(torch.ones(50) * 3 + row, dim=0) for name, row in study().items()}
    assert float((close["s00"] - close["s03"]).norm()) < 0.1  # closer than usual twins of other studies
    assert pick(["s03", "s05"], close, ["s00"]) == "s03"
    assert pick(ORDER, close, ["s00"]) == "s03"


def test_when_all_are_twins_the_first_is_served_all_the_same() -> None:
    same = {name: torch.ones(4) / 2 for name in "abc"}
    assert pick(["b", "c"], same, ["a"]) == "b"


def test_a_scan_without_descriptor_counts_as_different() -> None:
    assert pick(["unknown", "s03"], study(), ["s00"]) == "unknown"


def test_nothing_to_pick_from_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no scan"):
        pick([], study(), [])
