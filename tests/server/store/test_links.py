"""Links in a study: those that stay in it are followed, those that lead out are not unless a setting says so."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.setup.settings import Settings
from server.store.folder_store import FINAL, StudyDatastore
from server.store.links import Links
from tiny_study import make_tiny_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_tiny_study(tmp_path / "study", scans=2)


@pytest.fixture
def outside(tmp_path: Path, study: Path) -> Path:
    """Somebody else's files, among them a scan and a series."""
    folder = tmp_path / "outside"
    (folder / "series").mkdir(parents=True)
    shutil.copy(study / "case_2.nii.gz", folder / "secret.nii.gz")
    (folder / "series" / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    return folder


def chain(study: Path, outside: Path) -> None:
    os.symlink("second.link", study / "taken.nii.gz")
    os.symlink(os.path.relpath(outside / "secret.nii.gz", study), study / "second.link")


def slice_in_a_series(study: Path, outside: Path) -> None:
    (study / "taken").mkdir()
    shutil.copy(outside / "series" / "1.dcm", study / "taken")
    os.symlink(outside / "series" / "1.dcm", study / "taken" / "2.dcm")


def folder_in_a_series(study: Path, outside: Path) -> None:
    (study / "taken").mkdir()
    shutil.copy(outside / "series" / "1.dcm", study / "taken")
    os.symlink(outside, study / "taken" / "more")


def data_of_a_header(study: Path, outside: Path) -> None:
    (study / "taken.mhd").write_text("ObjectType = Image\nElementDataFile = taken.raw\n")
    os.symlink(outside / "secret.nii.gz", study / "taken.raw")


OUTWARD: dict[str, Callable[[Path, Path], object]] = {
    "a scan": lambda study, outside: os.symlink(outside / "secret.nii.gz", study / "taken.nii.gz"),
    "a chain": chain,
    "a series": lambda study, outside: os.symlink(outside / "series", study / "taken"),
    "a slice in a series": slice_in_a_series,
    "a folder in a series": folder_in_a_series,
    "the data of a header": data_of_a_header,
    "a neighbour whose name begins alike": lambda study, outside: os.symlink(
        _beside(study, outside), study / "taken.nii.gz"
    ),
}


def _beside(study: Path, outside: Path) -> Path:
    return Path(shutil.copytree(outside, f"{study}-2")) / "secret.nii.gz"


@pytest.mark.parametrize("kind", OUTWARD)
def test_what_leads_out_is_left_out_and_said_once(
    study: Path, outside: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    OUTWARD[kind](study, outside)
    with caplog.at_level(logging.WARNING):
        store = StudyDatastore(str(study))
        store.refresh()
    assert sorted(store.list_images()) == ["case_1", "case_2"]
    said = [text for text in caplog.messages if "taken" in text]
    assert len(said) == 1
    assert "leads out of the study" in said[0]
    assert "--conf follow_links true" in said[0]
    followed = StudyDatastore(str(study), follow_links=True)
    assert sorted(followed.list_images()) == ["case_1", "case_2", "taken"]


def test_links_that_stay_inside_and_the_study_itself_are_followed(study: Path, tmp_path: Path) -> None:
    (study / ".pool").mkdir()
    shutil.move(study / "case_2.nii.gz", study / ".pool" / "kept.nii.gz")
    os.symlink(".pool/kept.nii.gz", study / "case_2.nii.gz")
    (tmp_path / "served").symlink_to(study)
    store = StudyDatastore(str(tmp_path / "served"))
    assert sorted(store.list_images()) == ["case_1", "case_2"]
    assert Path(store.get_image_uri("case_2")).read_bytes() == (study / ".pool" / "kept.nii.gz").read_bytes()
    assert store.get_labeled_images() == ["case_1"]


def test_a_scan_that_becomes_a_link_is_not_handed_out(study: Path, outside: Path) -> None:
    store = StudyDatastore(str(study))
    for name in ("case_2.nii.gz", "labels/final/case_1.nii.gz"):
        (study / name).unlink()
        os.symlink(outside / "secret.nii.gz", study / name)
    with pytest.raises(UserError, match="leads out of the study") as refused:
        store.get_image_uri("case_2")
    assert refused.value.status == 403
    assert str(outside) not in str(refused.value)
    with pytest.raises(UserError, match="leads out of the study"):
        store.get_label_uri("case_1", FINAL)


@pytest.mark.parametrize("name", ["labels", "labels/final", "labels/.facts/final"])
def test_folder_of_labels_elsewhere_is_no_silent_loss(study: Path, tmp_path: Path, name: str) -> None:
    StudyDatastore(str(study))
    elsewhere = tmp_path / "elsewhere"
    (study / name).mkdir(parents=True, exist_ok=True)
    shutil.move(study / name, elsewhere)
    os.symlink(elsewhere, study / name)
    with pytest.raises(UserError, match="follow_links true"):
        StudyDatastore(str(study))
    assert StudyDatastore(str(study), follow_links=True).get_labeled_images() == ["case_1"]


def test_folder_of_labels_that_becomes_a_link_takes_no_label(study: Path, tmp_path: Path) -> None:
    store = StudyDatastore(str(study))
    store.serving = True
    shutil.move(study / "labels", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", study / "labels")
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    with pytest.raises(Exception, match="leads out"):
        store.save_label("case_2", str(tmp_path / "elsewhere" / "final" / "case_1.nii.gz"), FINAL, {})
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


def test_a_device_is_no_scan(study: Path) -> None:
    os.symlink("/dev/zero", study / "endless.nii.gz")
    assert Links(study, follow=False).reason(study / "endless.nii.gz")
    assert "endless" not in StudyDatastore(str(study)).list_images()


def test_the_setting() -> None:
    assert Settings.from_conf({"follow_links": "true"}).follow_links
    assert not Settings.from_conf({}).follow_links
    with pytest.raises(UserError, match="follow_links: 'maybe' is not known"):
        Settings.from_conf({"follow_links": "maybe"})
