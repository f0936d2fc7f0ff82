"""A study whose scans have two channels lists one scan a case, and treats its files as one scan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.formats.channels import set_channels
from server.store.folder_store import StudyDatastore
from tiny_study import save_nifti, tiny_scan


@pytest.fixture(autouse=True)
def two_channels() -> Iterator[None]:
    set_channels(("T1", "T2"))
    yield
    set_channels(())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cases in two files each, one in one file, and a second channel without a first one."""
    image, _, affine = tiny_scan(1)
    for name in ("a_0000", "a_0001", "b_0000", "b_0001", "lost_0001"):
        save_nifti(tmp_path / "study" / f"{name}.nii.gz", image, affine)
    save_nifti(tmp_path / "study" / "four.nii.gz", np.stack([image, image], axis=-1), affine)
    return tmp_path / "study"


def test_one_scan_is_listed_for_each_case(folder: Path) -> None:
    store = StudyDatastore(str(folder))
    assert sorted(store.list_images()) == ["a_0000", "b_0000", "four"]
    assert store.left_out == {
        "lost_0001.nii.gz": "it is a further channel of a scan whose first one, _0000, is missing"
    }


def test_a_changed_channel_is_a_changed_scan_and_goes_with_it(folder: Path) -> None:
    store = StudyDatastore(str(folder))
    store.serving = True
    before = store.scan_stamp("a_0000"), store.scan_stamp("b_0000")
    image, _, affine = tiny_scan(5)
    save_nifti(folder / "a_0001.nii.gz", image, affine)
    assert store.scan_stamp("a_0000") != before[0]
    assert store.scan_stamp("b_0000") == before[1]
    store.remove_image("a_0000")
    assert sorted(path.name for path in folder.glob("*.nii.gz")) == [
        "b_0000.nii.gz",
        "b_0001.nii.gz",
        "four.nii.gz",
        "lost_0001.nii.gz",
    ]


def test_viewers_get_the_first_channel(folder: Path) -> None:
    store = StudyDatastore(str(folder))
    assert Path(store.viewer_file("a_0000")).name == "a_0000.nii.gz"
    shown = nibabel.load(store.viewer_file("four"))
    assert shown.shape == tiny_scan(1)[0].shape
    np.testing.assert_array_equal(np.asarray(shown.dataobj), tiny_scan(1)[0])
