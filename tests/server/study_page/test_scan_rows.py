"""What is said about each scan: where its label comes from, and why a person should look."""

from __future__ import annotations

from pathlib import Path

import pytest

from page_parts import open_study, put_pseudo_label
from server.scores.scores import QUALITY, Scores
from server.store.study import Study
from server.study_page.scan_rows import ScanRow, rows_of


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(tmp_path, scans=6)


def rows(study: Study) -> dict[str, ScanRow]:
    return {row.name: row for row in rows_of(study, {}, {})}


def test_each_origin_is_told_in_words(study: Study) -> None:
    put_pseudo_label(study, 2)
    put_pseudo_label(study, 3, source="specialist", round=2)
    found = rows(study)
    assert (found["case_1"].state, found["case_1"].words) == ("outlined", "Outlined")
    assert (found["case_2"].state, found["case_2"].words) == ("carried", "Carried over from case_1")
    assert (found["case_3"].state, found["case_3"].words) == (
        "trained",
        "Labelled by the trained network, round 2",
    )
    assert found["case_4"].state == "none"
    assert found["case_2"].saved > 0


def test_who_has_outlined_a_scan(study: Study) -> None:
    file = study.datastore.get_label_uri("case_1", "final")
    study.datastore.save_label("case_1", file, "final", {"user": "anna", "client_id": "slicer-7"})
    assert rows(study)["case_1"].words == "Outlined by anna"
    study.datastore.save_label("case_1", file, "final", {"user": "admin", "client_id": "slicer-7"})
    assert rows(study)["case_1"].words == "Outlined by slicer-7"  # without a log-in everybody is called admin


def test_another_program_cannot_say_that_somebody_has_accepted(study: Study) -> None:
    file = study.datastore.get_label_uri("case_1", "final")
    study.datastore.save_label("case_1", file, "final", {"user": "bert", "accepted": {"by": "anna"}})
    assert rows(study)["case_1"].words == "Outlined by bert"


def test_a_scan_that_cannot_be_read_is_left_out_with_the_reason(study: Study) -> None:
    Scores(study).put_unusable({"case_5": "case_5.nii.gz is cut short."})
    assert (rows(study)["case_5"].state, rows(study)["case_5"].words) == (
        "left_out",
        "Left out: case_5.nii.gz is cut short.",
    )


def test_low_quality_and_warnings_want_a_look(study: Study) -> None:
    put_pseudo_label(study, 2, warnings=["rod is cut off by the edge of the scan"])
    put_pseudo_label(study, 3)
    put_pseudo_label(study, 4)
    facts = {QUALITY: 0.52, "raw": 0.5, "dice": [0.3, 0.74]}
    Scores(study).add(QUALITY, {"case_3": facts, "case_4": {**facts, QUALITY: 0.9}})
    found = rows(study)
    assert found["case_2"].review == ("rod is cut off by the edge of the scan",)
    assert found["case_3"].review == ("estimated quality 0.52",)
    assert (found["case_3"].quality, found["case_3"].quality_range) == (0.52, (0.3, 0.74))
    assert not found["case_3"].out_of_date
    assert found["case_4"].review == ()
    put_pseudo_label(study, 4, round=1)
    study.datastore.update_label_info("case_4", "original", {"note": "made anew"})
    Scores(study).add(QUALITY, {"case_3": facts}, of={"case_3": "another state"})
    assert rows(study)["case_3"].out_of_date


def test_volumes_far_from_the_rest_are_marked(study: Study) -> None:
    for number, volume in enumerate((21.0, 20.0, 19.0, 80.0, 0.0), start=2):
        put_pseudo_label(study, number, volume_ml={"ball": volume, "rod": 5.0})
    measured = {"case_1": {"ball": 20.5, "rod": 5.0}}
    found = {row.name: row for row in rows_of(study, {}, measured)}
    assert found["case_5"].odd == {"ball": "3.9 times what is usual in this study"}
    assert found["case_6"].odd == {"ball": "missing, most scans have it"}
    assert found["case_5"].review == ("ball: 3.9 times what is usual in this study",)
    assert [name for name, row in found.items() if row.odd] == ["case_5", "case_6"]
