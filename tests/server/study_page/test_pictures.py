"""Pictures are made once, in the background, and anew when scan or label change."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from PIL import Image

from lib.core.errors import UserError
from page_parts import open_study, put_pseudo_label
from server.store.study import Study
from server.study_page import pictures as module
from server.study_page.first_steps import next_step
from server.study_page.pictures import EDGE, Pictures
from server.study_page.scan_rows import rows_of
from server.study_page.study_table import counts_of
from tiny_study import save_nifti, tiny_scan


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(tmp_path)


def made(pictures: Pictures, name: str) -> Path:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        path = pictures.find(name)
        if path is not None:
            return path
        time.sleep(0.02)
    raise AssertionError("no picture")


def test_a_picture_is_made_once_and_kept(study: Study) -> None:
    pictures = Pictures(study)
    assert pictures.find("case_1") is None
    path = made(pictures, "case_1")
    assert Image.open(io.BytesIO(path.read_bytes())).size == (3 * EDGE, EDGE)
    assert path.stem == pictures.key("case_1")
    assert Pictures(study).find("case_1") == path  # also by the next server


def test_another_label_gives_another_picture(study: Study) -> None:
    pictures = Pictures(study)
    before = made(pictures, "case_2")
    put_pseudo_label(study, 2)
    after = made(pictures, "case_2")
    assert after != before
    assert after.read_bytes() != before.read_bytes()


def test_final_labels_are_measured_on_the_way(study: Study) -> None:
    pictures = Pictures(study)
    made(pictures, "case_1")
    volumes = pictures.measured()["case_1"]
    assert 15 < volumes["ball"] < 30
    assert Pictures(study).measured()["case_1"] == volumes


def test_a_scan_that_cannot_be_read_is_told_and_tried_again_later(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Pictures(study)
    (Path(study.location) / "case_3.nii.gz").write_bytes(b"no scan at all")
    with pytest.raises(UserError, match=r"case_3\.nii\.gz"):
        made(pictures, "case_3")


def test_they_take_no_more_than_their_room(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1)
    monkeypatch.setattr(module, "_EVERY", 1)
    pictures = Pictures(study)
    for name in ("case_1", "case_2"):
        pictures.find(name)
    until = time.monotonic() + 20
    while time.monotonic() < until and (pictures._waiting or list((study.place / "pictures").glob("*/*.jpg"))):
        time.sleep(0.02)
    assert list((study.place / "pictures").glob("*/*.jpg")) == []


def test_a_final_label_that_cannot_be_used_says_why(study: Study) -> None:
    name = "case_1"
    file = Path(study.datastore.get_label_uri(name, "final"))
    good = file.read_bytes()
    label, affine = tiny_scan(1)[1:]
    save_nifti(file, label[:-4], affine)  # drawn on another grid
    pictures = Pictures(study)
    made(pictures, name)
    for each in (pictures, Pictures(study)):  # also in the next server
        row = next(row for row in rows_of(study, {}, each.measured(), each.faults()) if row.name == name)
        assert (row.state, row.volumes) == ("unusable", {})
        assert row.words.startswith("Outlined. The final label of case_1 cannot be used: ")
        step = next_step(study, counts_of([row]))
        assert "1 scan with a final label that cannot be used" in step["text"]
    file.write_bytes(good)
    assert pictures.faults() == {}  # what was said of another label does not count
    made(pictures, name)
    row = next(row for row in rows_of(study, {}, pictures.measured(), pictures.faults()) if row.name == name)
    assert row.state == "outlined"
