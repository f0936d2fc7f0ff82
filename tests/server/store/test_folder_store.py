"""The study folder as a datastore: nobody's entry is lost, nothing is half written, ``final`` is for people."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi import HTTPException

from server.store.folder_store import StudyDatastore
from tiny_study import make_tiny_study, save_nifti, tiny_scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_study(tmp_path / "study", scans=4)


@pytest.fixture
def label(tmp_path: Path) -> str:
    _, values, affine = tiny_scan(1)
    return str(save_nifti(tmp_path / "some.nii.gz", values, affine))


def _work(folder: str, label: str, mark: str, images: list[str]) -> None:
    store = StudyDatastore(folder)
    for round_ in range(10):
        for image in images:
            store.save_label(image, label, f"{mark}{round_}", {"by": mark})
        store.update_image_info(images[0], {f"{mark}{round_}": round_})


def test_two_processes_keep_each_others_entries(folder: Path, label: str) -> None:
    server = StudyDatastore(str(folder))
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_work, args=(str(folder), label, mark, ["case_2", "case_3"])) for mark in ("a", "b")]
    for job in jobs:
        job.start()
    server.serving = True
    for n in range(10):
        server.save_label("case_4", label, "final", {"n": n})
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    for store in (server, StudyDatastore(str(folder))):
        objects = store.json()["objects"]
        for image in ("case_2", "case_3"):
            assert set(objects[image]["labels"]) == {f"{m}{n}" for m in "ab" for n in range(10)}
        assert {f"{m}{n}" for m in "ab" for n in range(10)} <= set(objects["case_2"]["image"]["info"])
        assert objects["case_4"]["labels"]["final"]["info"]["n"] == 9
        assert "final" in objects["case_1"]["labels"]
    assert not list(folder.rglob(".part-*"))


def test_readers_see_what_others_wrote_at_once(folder: Path, label: str) -> None:
    one, other = StudyDatastore(str(folder)), StudyDatastore(str(folder))
    one.save_label("case_2", label, "original", {"params": {"confidence": 0.5}})
    assert other.get_label_info("case_2", "original")["params"] == {"confidence": 0.5}
    assert other.status()["label_tags"] == {"final": 1, "original": 1}


def test_final_is_written_and_deleted_by_people_only(folder: Path, label: str) -> None:
    store = StudyDatastore(str(folder))
    before = (folder / "labels" / "final" / "case_1.nii.gz").read_bytes()
    for call in (
        lambda: store.save_label("case_1", label, "final", {}),
        lambda: store.save_label("case_2", label, "final", {}),
        lambda: store.remove_label("case_1", "final"),
        lambda: store.remove_image("case_1"),
    ):
        with pytest.raises(HTTPException, match="by people only"):
            call()
    assert (folder / "labels" / "final" / "case_1.nii.gz").read_bytes() == before
    store.serving = True
    store.save_label("case_2", label, "final", {})
    store.remove_label("case_2", "final")
    assert store.get_labeled_images() == ["case_1"]


@pytest.mark.parametrize("tag", ["", ".", "..", "../x", "a/b", "a\\b"])
def test_tags_lead_nowhere_else(folder: Path, label: str, tag: str) -> None:
    with pytest.raises(HTTPException) as caught:
        StudyDatastore(str(folder)).save_label("case_2", label, tag, {})
    assert caught.value.status_code == 400


def test_full_disk_loses_nothing(folder: Path, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StudyDatastore(str(folder))
    store.save_label("case_2", label, "original", {"n": 1})
    before = store.json()

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device", target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(HTTPException) as caught:
        store.save_label("case_2", label, "original", {"n": 2})
    assert caught.value.status_code == 507
    with pytest.raises(HTTPException):
        store.update_image_info("case_2", {"n": 2})
    monkeypatch.undo()
    assert store.json() == before == StudyDatastore(str(folder)).json()
    assert not list(folder.rglob(".part-*"))


def test_other_formats_and_series_folders(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    (folder / "series_7").mkdir(parents=True)
    (folder / "series_7" / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "1.2.840.7").mkdir()
    (folder / "1.2.840.7" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("no scan")
    for name in ("a.nii", "b.nrrd", "c.mha", "d.v2.nii.gz", "e.nii.x.nii", "f.gif", ".hidden.nii.gz"):
        (folder / name).write_bytes(b"0")
    store = StudyDatastore(str(folder))
    assert sorted(store.list_images()) == ["1.2.840.7", "a", "b", "c", "d.v2", "e.nii.x", "series_7"]
    assert store.get_image_uri("series_7") == str(folder / "series_7")
    assert store.get_image_uri("e.nii.x") == str(folder / "e.nii.x.nii")
    assert sorted(StudyDatastore(str(folder)).list_images()) == sorted(store.list_images())


def test_labels_on_disk_are_taken_up_again_without_the_file(folder: Path) -> None:
    StudyDatastore(str(folder))
    (folder / "datastore_v2.json").unlink()
    assert StudyDatastore(str(folder)).get_labeled_images() == ["case_1"]


def test_damaged_file_stops_the_start_but_not_a_running_server(folder: Path) -> None:
    from lib.core.errors import UserError

    store = StudyDatastore(str(folder))
    (folder / "datastore_v2.json").write_text('{"name": "x", "objects": ')
    assert store.get_labeled_images() == ["case_1"]
    with pytest.raises(UserError, match="Put a good copy back"):
        StudyDatastore(str(folder))


def test_a_link_is_removed_and_its_target_kept(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "archive.nii.gz"
    shutil.copyfile(folder / "case_2.nii.gz", elsewhere)
    (folder / "linked.nii.gz").symlink_to(elsewhere)
    store = StudyDatastore(str(folder), follow_links=True)
    store.remove_image("linked")
    assert "linked" not in store.list_images()
    assert elsewhere.is_file()


def test_watching(folder: Path) -> None:
    store = StudyDatastore(str(folder))
    store.watch()
    image, _, affine = tiny_scan(5)
    save_nifti(folder / "case_5.nii.gz", image, affine)
    (folder / "case_4.nii.gz").unlink()
    until = time.monotonic() + 15
    while sorted(store.list_images()) != ["case_1", "case_2", "case_3", "case_5"] and time.monotonic() < until:
        time.sleep(0.1)
    assert sorted(json.loads((folder / "datastore_v2.json").read_text())["objects"]) == [
        "case_1",
        "case_2",
        "case_3",
        "case_5",
    ]
    store._watcher.stop()


def test_old_format_of_a_pseudo_label_is_not_left_behind(folder: Path, label: str, tmp_path: Path) -> None:
    store = StudyDatastore(str(folder))
    store.save_label("case_2", label, "original", {})
    other = save_nifti(tmp_path / "other.nii", np.ones((3, 3, 3), np.uint8), np.eye(4))
    store.save_label("case_2", str(other), "original", {})
    assert sorted(p.name for p in (folder / "labels" / "original").iterdir()) == ["case_2.nii"]


def test_folder_that_cannot_be_written_is_named(folder: Path, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StudyDatastore(str(folder))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr("server.store.label_store.write_whole", refuse)
    with pytest.raises(HTTPException) as caught:
        store.save_label("case_2", label, "original", {})
    assert caught.value.status_code == 507
    assert str(folder) in caught.value.detail
    assert store.get_label_by_image_id("case_2", "original") == ""


def test_readers_do_not_see_a_change_before_it_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StudyDatastore(str(folder))
    seen: list[list[str]] = []
    write = store._write_list

    def slow() -> None:
        reader = threading.Thread(target=lambda: seen.append(sorted(store.list_images())))
        reader.start()
        reader.join(10)
        write()

    monkeypatch.setattr(store, "_write_list", slow)
    store.remove_image("case_4")
    assert seen == [["case_1", "case_2", "case_3", "case_4"]]
    assert sorted(store.list_images()) == ["case_1", "case_2", "case_3"]


def test_many_labels_are_one_change_of_the_list(folder: Path, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, reader = StudyDatastore(str(folder)), StudyDatastore(str(folder))
    written: list[int] = []
    write = StudyDatastore._write_list

    def counting(self: StudyDatastore) -> None:
        written.append(1)
        write(self)

    monkeypatch.setattr(StudyDatastore, "_write_list", counting)
    store.save_labels("original", {name: (label, {"n": name}) for name in ("case_2", "case_3", "case_4")})
    assert len(written) == 1
    assert reader.get_label_info("case_3", "original")["n"] == "case_3"
    with pytest.raises(HTTPException) as error:
        store.save_labels("original", {"case_2": (label, {"n": "new"}), "case_99": (label, None)})
    assert error.value.status_code == 404
    assert reader.get_label_info("case_2", "original")["n"] == "case_2"
