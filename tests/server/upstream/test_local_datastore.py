"""MONAI Label's interface of a datastore does not say in which folder its files lie."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore

from server.upstream.local_datastore import folder_of, labels_on_disk
from tiny_study import make_tiny_study


def test_the_interface_has_no_folder() -> None:
    assert not [name for name in vars(Datastore) if "path" in name or "folder" in name]


def test_folder_and_labels_of_monai_labels_own(tmp_path: Path) -> None:
    folder = make_tiny_study(tmp_path / "study", scans=2)
    store = LocalDatastore(str(folder))
    assert folder_of(store) == folder
    assert labels_on_disk(store, "final") == {"case_1": folder / "labels" / "final" / "case_1.nii.gz"}


def test_other_datastores_have_none() -> None:
    store = cast(Any, SimpleNamespace())
    assert folder_of(store) is None
    assert labels_on_disk(store, "final") == {}
