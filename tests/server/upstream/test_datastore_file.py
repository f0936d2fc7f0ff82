"""Two processes that save labels in one study: MONAI Label's datastore loses one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from monailabel.datastore.local import LocalDatastore

from server.store.folder_store import StudyDatastore
from tiny_study import make_tiny_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_tiny_study(tmp_path / "study", scans=3)


@pytest.fixture
def label(study: Path, tmp_path: Path) -> str:
    file = tmp_path / "label.nii.gz"
    file.write_bytes((study / "case_1.nii.gz").read_bytes())
    return str(file)


def after_two_saves(kind: type, study: Path, label: str) -> set[str]:
    """Which scans have a label after two processes have saved one each."""
    first, second = kind(str(study)), kind(str(study))
    assert first.list_images()
    assert second.list_images()
    first.save_label("case_2", label, "original", {})
    second.save_label("case_3", label, "original", {})
    listed = kind(str(study), read_only=True).json()["objects"]
    return {name for name, item in listed.items() if "original" in item["labels"]}


def test_monai_labels_own_datastore_loses_a_label(study: Path, label: str) -> None:
    assert after_two_saves(LocalDatastore, study, label) == {"case_3"}


def test_ours_does_not(study: Path, label: str) -> None:
    assert after_two_saves(StudyDatastore, study, label) >= {"case_2", "case_3"}


@pytest.mark.parametrize(
    "name",
    [
        "_init_from_datastore_file",
        "_update_datastore_file",
        "_reconcile_datastore",
        "_is_on_mount",
        "set_name",
        "refresh",
    ],
)
def test_monai_label_still_has_what_is_overridden(name: str) -> None:
    assert callable(getattr(LocalDatastore, name))


def test_monai_label_still_keeps_its_content_where_ours_is(study: Path) -> None:
    store = LocalDatastore(str(study))
    assert {"_datastore", "_datastore_path", "_datastore_config_path"} <= set(vars(store))
    assert store._datastore.label_path("final") == str(study / "labels" / "final")
