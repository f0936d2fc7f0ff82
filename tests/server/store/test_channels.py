"""A study whose scans have two channels lists one scan a case, and treats its files as one scan."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fastapi import HTTPException

from lib.formats.channels import set_channels
from lib.formats.volumes import read_volume
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


# --- uploads ----------------------------------------------------------------------------------------------------------


def sent(tmp_path: Path, *names: str) -> str:
    """A zip archive with a file for each channel, the second with other voxels and a smaller field of view."""
    image, _, affine = tiny_scan(7)
    with zipfile.ZipFile(tmp_path / "upload.zip", "w") as archive:
        for n, name in enumerate(names):
            array = image if n == 0 else (1000 - image)[:-4]
            archive.write(save_nifti(tmp_path / "sent" / name, array, affine), f"export/{name}")
    return str(tmp_path / "upload.zip")


def test_a_scan_with_a_file_for_each_channel_is_uploaded_as_one_archive(folder: Path, tmp_path: Path) -> None:
    store = StudyDatastore(str(folder))
    file = sent(tmp_path, "new_0000.nii.gz", "new_0001.nii.gz")
    assert store.add_image("new", file, {}) == "new"
    assert store.add_image("new", file, {}) == "new"  # once more, without a word
    assert sorted(StudyDatastore(str(folder)).list_images()) == ["a_0000", "b_0000", "four", "new"]
    scan, (image, _, affine) = read_volume(store.get_image_uri("new")), tiny_scan(7)
    np.testing.assert_array_equal(scan.array, image)
    np.testing.assert_allclose(scan.affine, affine, atol=1e-4)
    (second,) = scan.further
    np.testing.assert_allclose(second[:-4], (1000 - image)[:-4], atol=0.01)
    store.serving = True
    store.remove_image("new")
    assert not list(folder.glob("new*"))


@pytest.mark.parametrize("packed", [False, True], ids=["a file", "an archive"])
def test_an_upload_of_one_channel_alone_is_told_what_to_do(folder: Path, tmp_path: Path, packed: bool) -> None:
    store = StudyDatastore(str(folder))
    image, _, affine = tiny_scan(7)
    alone = sent(tmp_path, "new_0000.nii.gz") if packed else str(save_nifti(tmp_path / "tmp1.nii.gz", image, affine))
    with pytest.raises(HTTPException) as caught:
        store.add_image("new", alone, {})
    text = str(caught.value.detail)
    assert caught.value.status_code == 422
    assert "scans of this study have 2 (T1, T2)" in text
    assert "one file with four axes" in text
    assert "zip archive with a file for each channel (NAME_0000.nii.gz, NAME_0001.nii.gz" in text
    assert "copy these files into the study's folder" in text
    assert "tmp1" not in text


def test_an_archive_without_a_channel_is_told_which_files_it_must_hold(folder: Path, tmp_path: Path) -> None:
    set_channels(("T1", "T2", "FLAIR"))
    with pytest.raises(HTTPException, match=r"\(T1, T2, FLAIR\), pack the files of all channels: NAME_0000"):
        StudyDatastore(str(folder)).add_image("new", sent(tmp_path, "new_0000.nii.gz", "new_0001.nii.gz"), {})


@pytest.mark.parametrize("name", ["new_0000", "new_0001"])
def test_all_channels_in_one_file_are_not_called_as_one_of_them(folder: Path, tmp_path: Path, name: str) -> None:
    """A file of such a name would be taken for one channel: it would show as four axes, or not be listed at all."""
    with pytest.raises(HTTPException, match=f"{name[-5:]} at the end of a name stands for a single one"):
        StudyDatastore(str(folder)).add_image(name, sent(tmp_path, "new_0000.nii.gz", "new_0001.nii.gz"), {})
    assert not list(folder.glob("new*"))
