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
from server.study_page.pictures import EDGE, Pictures


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
