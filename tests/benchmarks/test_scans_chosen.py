"""The benchmark of scans that are chosen to be outlined: what is compared with what."""

from __future__ import annotations

import sys
from pathlib import Path

from tiny_study import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import scans_chosen
from study_sets import StudySet


def test_chosen_scans_are_compared_with_the_mean_of_the_random_draws() -> None:
    study = StudySet("jsrt", Path(), Path(), ["a", "b", "c"], ["x", "y"])
    dice = (0.5, 0.8, 0.7, 0.6)
    kept = {
        way: {"x": [value, value, 9.0], "y": [value + 0.1, value + 0.1, 9.0]}
        for way, value in zip(scans_chosen.WAYS, dice, strict=True)
    }
    rows = scans_chosen.rows_of(study, "mobile_sam", kept)
    assert [row[4] for row in rows] == ["-0.1500", "+0.1500", "+0.0500", "-0.0500"]
    assert rows[1][5:] == ["+0.1500", 9.0]
    assert abs(scans_chosen.mean(kept[scans_chosen.WAYS[1]]) - 0.85) < 1e-9
