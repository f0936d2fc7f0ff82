"""Which files of a study are scans: a bad one never stops the rest, and what is left out is told with the reason."""

from __future__ import annotations

import logging
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from fastapi import HTTPException
from pydicom.dataset import FileDataset, FileMetaDataset
from watchdog.events import FileCreatedEvent

import server.store.scan_marks
from dicomfiles import Labelled, write_series
from lib.core.errors import UserError
from lib.formats.volumes import read_volume
from server.store.detached import join
from server.store.folder_store import FINAL, StudyDatastore
from server.store.watching import MOST_SECONDS, Watch
from tiny_study import save_nifti, tiny_scan


def small(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scan, its label and its affine, an eighth of the usual size."""
    image, label, affine = tiny_scan(number)
    return image[::2, ::2, ::2], label[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0])


def put(path: Path, number: int = 1) -> Path:
    """Write a scan in the format of the path's ending."""
    image, _, affine = small(number)
    if path.name.endswith((".nii", ".nii.gz")):
        return save_nifti(path, image, affine)
    plain = save_nifti(path.parent / ".plain.nii.gz", image, affine)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(plain)), str(path))
    plain.unlink()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study").mkdir()
    put(tmp_path / "study" / "good.nii.gz")
    return tmp_path / "study"


def test_a_bad_file_is_left_out_once_with_the_reason_and_stops_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = (folder / "good.nii.gz").read_bytes()
    (folder / "labels" / "final").mkdir(parents=True)
    for bad in (b"M\xfcller.nii.gz", b"tab\there.nii.gz", b"labels/final/M\xfcller.nii.gz"):
        with open(os.path.join(os.fsencode(folder), bad), "wb") as file:
            file.write(scan)
    (folder / ("x" * 230 + ".nii.gz")).write_bytes(scan)
    (folder / "nowhere.nii.gz").symlink_to(folder / "gone.nii.gz")
    (folder / "round.nii.gz").symlink_to(folder / "round.nii.gz")
    os.mkfifo(folder / "pipe.nii.gz")
    (folder / "old.nhdr").write_text("NRRD0004")
    (folder / "brain.mgz").write_bytes(b"0")
    (folder / "alone.mhd").write_text("ObjectType = Image\nElementDataFile = alone.raw\n")
    (folder / "abroad.mhd").write_text("ObjectType = Image\nElementDataFile = ../secret.raw\n")
    (folder / "apart.nrrd").write_text("NRRD0004\r\ntype: short\r\ndata file: apart.raw\r\n\r\n")
    (folder / "apart.mha").write_text("ObjectType = Image\nElementDataFile = apart.raw\n")
    (folder / "apart.raw").write_bytes(b"0")
    (folder / "rubbish.dcm").write_text("no DICOM")
    (folder / "labels" / "final" / "nobody.nii.gz").write_bytes(scan)
    (folder / "readme.txt").write_text("no scan")
    with caplog.at_level(logging.WARNING, "semisam.store"):
        store = StudyDatastore(str(folder))
        store.refresh()
    assert store.list_images() == ["good"]
    assert store.get_image_uri("good") == str(folder / "good.nii.gz")
    reasons = {
        "M\\xfcller.nii.gz": "no UTF-8",
        "tab\\there.nii.gz": "no UTF-8",
        "labels/final/M\\xfcller.nii.gz": "no UTF-8",
        "x" * 230 + ".nii.gz": "longer than 200 bytes",
        "nowhere.nii.gz": "leads nowhere",
        "round.nii.gz": "cannot be read",
        "pipe.nii.gz": "no plain file",
        "old.nhdr": "format is not read",
        "brain.mgz": "format is not read",
        "alone.mhd": "only the header",
        "abroad.mhd": "another folder",
        "apart.nrrd": "only the header",
        "apart.mha": "only the header",
        "rubbish.dcm": "no DICOM file",
        "labels/final/nobody.nii.gz": "no scan 'nobody'",
    }
    for name, reason in reasons.items():
        assert reason in store.left_out[name], name
        told = [r for r in caplog.records if r.getMessage().startswith(f"Left out: {name}:")]
        assert len(told) == 1
    assert set(store.left_out) == set(reasons)


def test_labels_that_cannot_be_listed_for_now_stay_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, label, affine = small(1)
    save_nifti(folder / "labels" / "final" / "good.nii.gz", label, affine)
    store, plain = StudyDatastore(str(folder)), os.listdir
    for barred in (folder / "labels", folder / "labels" / "final"):

        def refuse(path: str | Path = ".", barred: Path = barred) -> list[str]:
            if Path(path) == barred:
                raise PermissionError(13, "Permission denied", str(path))
            return plain(path)

        monkeypatch.setattr(os, "listdir", refuse)
        store.refresh()
        assert store.get_labeled_images() == ["good"]
        assert "cannot be read" in store.left_out[str(barred.relative_to(folder))]


def test_only_the_first_hundred_are_told_to_clients(folder: Path) -> None:
    for number in range(120):
        (folder / f"{number}.mgz").write_bytes(b"0")
    left_out = StudyDatastore(str(folder)).left_out
    assert len(left_out) == 101
    assert left_out["..."].startswith("20 more")


def test_what_clients_are_told_is_printable_and_short(folder: Path) -> None:
    (folder / "labels" / "final").mkdir(parents=True)
    turned = "a\u202eb\u200b.nii.gz"  # turns the text around it, and a blank that nobody sees
    for name in (turned, "\u30b9" * 60 + ".nii.gz", "\u2028" * 60 + ".nii.gz"):
        (folder / "labels" / "final" / name).write_bytes(b"0")
    (folder / "config.mgz").write_bytes(b"0")
    left_out = StudyDatastore(str(folder)).left_out
    assert len(left_out) == 3 + 1
    assert "labels/final/a\\u202eb\\u200b.nii.gz" in left_out
    assert all(text.isprintable() for pair in left_out.items() for text in pair)
    assert max(len(name) for name in left_out) == 300


def test_of_two_scans_with_one_name_the_outlined_one_stays_and_the_other_is_told(folder: Path, tmp_path: Path) -> None:
    put(folder / "dup.nrrd", 2)
    store = StudyDatastore(str(folder))
    store.serving = True
    _, label, affine = small(2)
    store.save_label("dup", str(save_nifti(tmp_path / "l.nii.gz", label, affine)), FINAL, {})
    put(folder / "dup.nii.gz", 3)
    (folder / "datastore_v2.json").unlink()  # so that nobody remembers which came first
    for each in (store, StudyDatastore(str(folder))):
        each.refresh()
        assert each.get_image_uri("dup").endswith("dup.nrrd")
        assert "dup.nrrd has the same name" in each.left_out["dup.nii.gz"]
        assert each.get_labeled_images() == ["dup"]
    (folder / "dup.nrrd").unlink()
    store.refresh()
    assert store.get_image_uri("dup").endswith("dup.nii.gz")
    assert store.get_labeled_images() == [], "the outline of another patient"


def test_segmentations_beside_scans_are_no_scans(folder: Path) -> None:
    _, label, affine = small(1)
    plain = save_nifti(folder / ".l.nii.gz", label, affine)
    image = SimpleITK.ReadImage(str(plain))
    SimpleITK.WriteImage(image, str(folder / "good.seg.nrrd"))
    SimpleITK.WriteImage(image, str(folder / "OTHER.SEG.NRRD"))
    image.SetMetaData("Segment0_ID", "Segment_1")
    image.SetMetaData("Segment0_Name", "ball")
    SimpleITK.WriteImage(image, str(folder / "renamed.nrrd"))
    shutil.copy(plain, folder / "good.seg.nii.gz")
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.3"
    seg = FileDataset(str(folder / "seg.dcm"), {}, file_meta=meta, preamble=bytes(128))
    seg.Modality, seg.Rows, seg.Columns = "SEG", 4, 4
    seg.is_little_endian, seg.is_implicit_VR = True, False
    seg.save_as(folder / "seg.dcm")
    store = StudyDatastore(str(folder))
    assert store.list_images() == ["good"]
    for name in ("good.seg.nrrd", "OTHER.SEG.NRRD", "renamed.nrrd", "good.seg.nii.gz", "seg.dcm"):
        assert "is a segmentation" in store.left_out[name]


def test_loose_slices_are_told_together(folder: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "series", Labelled(*small(1)))
    for number, file in enumerate(sorted((tmp_path / "series").iterdir())):
        shutil.copy(file, folder / f"{number}.dcm")
    left_out = StudyDatastore(str(folder)).left_out
    assert list(left_out) == ["*.dcm"]
    assert "sub-folder" in left_out["*.dcm"]


# --- scans of several files -------------------------------------------------------------------------------------------


def packed(path: Path, files: list[Path]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, f"PAT/ST1/{file.name}")
    return str(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_header_with_its_data_is_listed_shown_and_deleted_as_one(folder: Path, compressed: bool) -> None:
    image = SimpleITK.ReadImage(str(folder / "good.nii.gz"))
    SimpleITK.WriteImage(image, str(folder / "meta.mhd"), compressed)
    store = StudyDatastore(str(folder))
    assert store.list_images() == ["good", "meta"]
    assert store.get_image_info("meta")["name"] == "meta.mha"
    shown = SimpleITK.ReadImage(store.viewer_file("meta"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(shown), SimpleITK.GetArrayFromImage(image))
    assert shown.GetOrigin() == image.GetOrigin()
    store.remove_image("meta")
    assert not [p for p in folder.rglob("meta*") if p.is_file()]
    assert store.list_images() == ["good"]


def test_data_that_two_headers_name_stay_until_the_last_one_goes(folder: Path) -> None:
    put(folder / "one.mhd")
    (folder / "two.mhd").write_text((folder / "one.mhd").read_text())
    store = StudyDatastore(str(folder))
    store.remove_image("one")
    read_volume(folder / "two.mhd")
    store.remove_image("two")
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == [
        "datastore_v2.json",
        "good.nii.gz",
        "labels",
    ]


def test_slices_in_files_of_their_own_are_joined_in_order(tmp_path: Path) -> None:
    slices = [np.full((4, 5), n, np.uint8) for n in range(3)]
    for number, array in enumerate(slices):
        (tmp_path / f"s{number}.raw").write_bytes(array.tobytes())
    head = "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_UCHAR\n"
    for name, end in (("list", "LIST\ns0.raw\ns1.raw\ns2.raw\n"), ("pattern", "s%d.raw 0 2 1\n")):
        (tmp_path / f"{name}.mhd").write_text(f"{head}ElementDataFile = {end}")
        join(tmp_path / f"{name}.mhd", tmp_path / f"{name}.mha")
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"{name}.mha")))
        assert found.tolist() == np.stack(slices).tolist()


def test_uploads_of_several_files_come_as_one_archive(folder: Path, tmp_path: Path) -> None:
    store = StudyDatastore(str(folder))
    header = put(tmp_path / "up.mhd", 2)
    with pytest.raises(HTTPException, match="Pack both into one zip"):
        store.add_image("up", str(header), {})
    store.add_image("up", packed(tmp_path / "up.zip", [header, tmp_path / "up.raw"]), {})
    assert np.array_equal(read_volume(store.get_image_uri("up")).array, read_volume(header).array)
    write_series(tmp_path / "series", Labelled(*small(3)))
    store.add_image("series", packed(tmp_path / "s.zip", sorted((tmp_path / "series").iterdir())), {})
    assert Path(store.get_image_uri("series")).is_dir()
    scan = read_volume(store.get_image_uri("series"))
    shown = read_volume(store.viewer_file("series"))
    assert store.get_image_info("series")["name"] == "series.nii.gz"
    assert np.array_equal(scan.array, shown.array)
    assert np.allclose(scan.affine, shown.affine, atol=1e-3)
    for name, files in (
        ("half", [header]),
        ("both", [header, tmp_path / "up.raw", folder / "good.nii.gz"]),
        ("no", []),
    ):
        with pytest.raises(HTTPException) as caught:
            store.add_image(name, packed(tmp_path / f"{name}.zip", files), {})
        assert caught.value.status_code in (400, 422)
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    with pytest.raises(HTTPException, match="damaged or encrypted"):
        store.add_image("broken", str(tmp_path / "broken.zip"), {})
    assert store.list_images() == ["good", "up", "series"]
    store.remove_image("series")
    assert not [p for p in folder.rglob("*") if "series" in p.name]


# --- a study that cannot be written -----------------------------------------------------------------------------------


def test_a_read_only_study_is_listed_and_nothing_is_written_into_it(folder: Path, tmp_path: Path) -> None:
    _, label, affine = small(1)
    file = save_nifti(folder / "labels" / "final" / "good.nii.gz", label, affine)
    before = sorted(folder.rglob("*"))
    store = StudyDatastore(str(folder), read_only=True)
    store.serving = True
    assert store.list_images() == store.get_labeled_images() == ["good"]
    store.update_image_info("good", {"seen": True})  # as the next scan is noted
    for call in (
        lambda: store.save_label("good", str(file), FINAL, {}),
        lambda: store.remove_label("good", FINAL),
        lambda: store.remove_image("good"),
        lambda: store.add_image("new", str(folder / "good.nii.gz"), {}),
    ):
        with pytest.raises(HTTPException, match="served read-only"):
            call()
    put(tmp_path / "new.nii.gz", 2).rename(folder / "new.nii.gz")
    store.refresh()
    assert store.list_images() == ["good", "new"]
    assert sorted(folder.rglob("*")) == sorted([*before, folder / "new.nii.gz"])


def test_a_folder_that_may_not_be_written_is_named_at_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(UserError, match=r"cannot be written.*READ_ONLY=true"):
        StudyDatastore(str(folder))
    monkeypatch.undo()
    with pytest.raises(UserError, match="is a file"):
        StudyDatastore(str(folder / "good.nii.gz"))


# --- watching ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_new_files_are_looked_at_once_and_an_error_does_not_end_the_watching() -> None:
    looks: list[float] = []

    def look() -> None:
        looks.append(time.monotonic())
        if len(looks) == 1:
            raise ValueError("whatever it is")

    watch = Watch(look)
    began = time.monotonic()
    for number in range(2000):
        watch.on_any_event(FileCreatedEvent(f"/study/{number}.nii.gz"))
    while len(looks) < 1 and time.monotonic() < began + 10:
        time.sleep(0.05)
    watch.on_any_event(FileCreatedEvent("/study/again.nii.gz"))
    while len(looks) < 2 and time.monotonic() < began + 20:
        time.sleep(0.05)
    assert len(looks) == 2
    assert looks[0] - began < MOST_SECONDS + 5
    watch.on_any_event(FileCreatedEvent("/study/.lock"))
    watch.on_any_event(FileCreatedEvent("/study/labels/.facts/final/x.json"))
    time.sleep(0.6)
    assert len(looks) == 2


def test_a_scan_that_is_still_being_copied_is_not_taken_for_the_outlined_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, label, affine = small(1)
    save_nifti(folder / "labels" / "final" / "good.nii.gz", label, affine)
    whole = (folder / "good.nii.gz").read_bytes()
    (folder / "good.nii.gz").write_bytes(whole[:1000])
    monkeypatch.setattr(server.store.scan_marks, "_QUIET_SECONDS", 0)
    store = StudyDatastore(str(folder))
    (folder / "good.nii.gz").write_bytes(whole)
    store.refresh()
    assert store.get_labeled_images() == ["good"]
