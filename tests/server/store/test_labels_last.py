"""What a person has outlined stays what it is: whatever happens to lists, files and processes around it."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException

import random_sequences as random_steps
import server.store.scan_marks
from lib.core.errors import UserError
from lib.formats.volumes import read_volume
from lib.setup.settings import Settings
from server.requests.submitted import forget
from server.scores.offered import OfferedScans
from server.scores.scores import Scores
from server.store.folder_store import FINAL, ORIGINAL, StudyDatastore
from server.store.label_facts import LabelFacts
from server.store.study import Study
from tiny_study import save_nifti, tiny_scan

ROD_FIRST = {"label_info": [{"name": "rod", "idx": 1, "color": [9, 8, 7]}, {"name": "ball", "idx": 2}]}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a test are as old as the test."""
    monkeypatch.setattr(server.store.scan_marks, "_QUIET_SECONDS", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans."""
    for number in (1, 2):
        image, _, affine = tiny_scan(number)
        save_nifti(tmp_path / "study" / f"case_{number}.nii.gz", image[::2, ::2, ::2], affine)
    return tmp_path / "study"


def outline(tmp_path: Path, name: str = "l.nii.gz", *, values: tuple[int, int] = (2, 1), number: int = 1) -> Path:
    """The label of a scan; ``values`` of ball and rod."""
    _, label, affine = tiny_scan(number)
    table = np.array([0, *values], dtype=np.uint8)
    path = tmp_path / name
    if name.endswith((".nii", ".nii.gz")):
        return save_nifti(path, table[label[::2, ::2, ::2]], affine)
    import SimpleITK

    plain = save_nifti(tmp_path / "plain.nii.gz", table[label[::2, ::2, ::2]], affine)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(plain)), str(path))
    return path


def opened(folder: Path, **arguments: Any) -> StudyDatastore:
    store = StudyDatastore(str(folder), **arguments)
    store.serving = True
    return store


def study_of(store: StudyDatastore, folder: Path, labels: str = "ball,rod") -> Study:
    settings = Settings.from_conf({"labels": labels}) if labels else Settings()
    return Study(str(folder), store, settings, folder.parent / "models")


def ball_of(store: StudyDatastore, folder: Path) -> int:
    """Voxels of the ball for whoever learns from the only final label."""
    (item,) = study_of(store, folder).usable()
    return int((study_of(store, folder).template(item).label == 1).sum())


BALL = int((tiny_scan(1)[1][::2, ::2, ::2] == 1).sum())


# --- what is known of a label -----------------------------------------------------------------------------------------


def test_facts_come_back_from_the_notes_that_they_were_made_from() -> None:
    infos: list[dict[str, Any]] = [
        {"label_info": ROD_FIRST["label_info"], "annotated": "planes", "client_id": "c", "user": "u", "ts": 5, "n": 9},
        {"params": {"label_names": {"ball": 1}, "confidence": 0.5}, "model": "propagate", "ts": 6},
        {"SOPInstanceUID": "1.2", "StudyInstanceUID": "1", "listed": True, "ts": 7},
        {"label_info": "no list", "params": 3, "annotated": 7, "ts": 8},
        {"label_info": [{"idx": 1}], "ts": 9},
    ]
    for info in infos:
        facts = LabelFacts.from_info(info)
        assert facts.to_info("x.nii") == {**info, "name": "x.nii"}
        assert LabelFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    first = LabelFacts.from_info(infos[0])
    assert first.names == (("rod", 1), ("ball", 2))
    assert first.said == "planes"


def test_names_survive_a_scan_that_is_away_a_lost_list_and_other_processes(folder: Path, tmp_path: Path) -> None:
    store, other = opened(folder), opened(folder)
    store.save_label("case_1", str(outline(tmp_path)), FINAL, {**ROD_FIRST, "annotated": "all"})
    before = store.get_label_info("case_1", FINAL)
    away = tmp_path / "away"
    os.rename(folder / "case_1.nii.gz", away)
    other.refresh()
    assert other.get_labeled_images() == []
    shutil.copy(away, folder / "case_1.nii.gz")
    other.refresh()
    assert ball_of(store, folder) == ball_of(other, folder) == BALL
    assert store.get_label_info("case_1", FINAL) == before
    (folder / "datastore_v2.json").unlink()
    assert opened(folder).get_label_info("case_1", FINAL) == before
    assert ball_of(opened(folder), folder) == BALL


def test_what_values_mean_is_told_by_the_content_of_the_file(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    store.save_label("case_1", str(outline(tmp_path)), FINAL, ROD_FIRST)
    place = folder / "labels" / "final" / "case_1.nii.gz"
    saved = place.read_bytes()
    shutil.copy(outline(tmp_path, "hand.nii.gz", values=(1, 2)), place)  # the schema's values, and no names
    assert ball_of(store, folder) == ball_of(opened(folder), folder) == BALL
    place.write_bytes(saved)
    assert ball_of(store, folder) == ball_of(opened(folder), folder) == BALL


def test_labels_from_before_there_were_notes_keep_their_names(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    store.save_label("case_1", str(outline(tmp_path)), FINAL, ROD_FIRST)
    shutil.rmtree(folder / "labels" / ".facts")
    again = opened(folder)
    assert ball_of(again, folder) == BALL
    (folder / "datastore_v2.json").unlink()
    assert ball_of(opened(folder), folder) == BALL


def test_notes_of_a_client_go_beside_the_file(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    store.save_label("case_1", str(outline(tmp_path, values=(1, 2))), FINAL, {})
    store.update_label_info("case_1", FINAL, {"annotated": "all", "checked_by": "x"})
    (folder / "datastore_v2.json").unlink()
    info = opened(folder).get_label_info("case_1", FINAL)
    assert (info["annotated"], info["checked_by"]) == ("all", "x")


# --- one file, and nothing that was deleted ---------------------------------------------------------------------------


def test_a_client_cannot_take_names_away_nor_say_what_only_the_app_knows(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    store.save_label("case_1", str(outline(tmp_path)), FINAL, {**ROD_FIRST, "SOPInstanceUID": "1.2", "content": "x"})
    known = store.get_label_info("case_1", FINAL)
    assert set(known) == {"label_info", "ts", "name"}
    store.update_label_info("case_1", FINAL, {"ts": "x", "name": "y", "sent": 1, "seen": True})
    assert store.get_label_info("case_1", FINAL) == {**known, "seen": True}
    bad: object
    for bad in (None, [], {}, [1, 2], "rod,ball", 7, [{"idx": 1}]):
        with pytest.raises(HTTPException, match="label_info"):
            store.update_label_info("case_1", FINAL, {"label_info": bad})
    for bad in ([1, 2], "rod,ball", 7, [{"idx": 1}]):
        with pytest.raises(HTTPException, match="each with name and idx") as caught:
            store.save_label("case_1", str(outline(tmp_path)), FINAL, {"label_info": bad})
        assert caught.value.status_code == 422
    assert ball_of(store, folder) == BALL


@pytest.mark.parametrize(
    "names",
    [
        [{"name": "rod", "idx": "1"}, {"name": "ball", "idx": "2"}],
        [{"name": "ball", "idx": "2"}, {"name": "rod", "idx": "1"}],
        [{"name": "ball", "idx": 2.0}, {"name": "rod", "idx": 1.0}],
        {"rod": 1, "ball": 2},
        {"ball": 2, "rod": 1},
        ["rod", "ball"],
    ],
)
def test_names_in_any_form_that_is_clear_say_what_values_mean(folder: Path, tmp_path: Path, names: object) -> None:
    store = opened(folder)
    store.save_label("case_1", str(outline(tmp_path)), FINAL, {"label_info": names})
    assert ball_of(opened(folder), folder) == BALL


@pytest.mark.parametrize("idx", [-1, "two", 1.5, True])
def test_names_with_numbers_that_are_none_are_refused(folder: Path, tmp_path: Path, idx: object) -> None:
    store = opened(folder)
    names = [{"name": "rod", "idx": idx}, {"name": "ball", "idx": 2}]
    store.save_label("case_1", str(outline(tmp_path)), FINAL, {"label_info": names})
    with pytest.raises(UserError, match="not clear which values"):
        ball_of(store, folder)


def test_a_label_saved_in_another_format_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    for name in ("a.nii.gz", "b.nrrd", "c.seg.nrrd", "d.mha", "e.nii"):
        store.save_label("case_1", str(outline(tmp_path, name)), FINAL, ROD_FIRST)
        assert [p.name for p in (folder / "labels" / "final").iterdir()] == [f"case_1{name[1:]}"]
        assert ball_of(opened(folder), folder) == BALL
    store.remove_label("case_1", FINAL)
    assert opened(folder).get_labeled_images() == []


def test_a_deleted_scan_leaves_nothing_to_another_one_of_its_name(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    gone: list[str] = []
    store.on_gone = gone.append
    store.save_label("case_1", str(outline(tmp_path)), FINAL, ROD_FIRST)
    store.save_label("case_1", str(outline(tmp_path)), "by_an_intern", ROD_FIRST)
    shutil.copy(outline(tmp_path, "hand.nrrd"), folder / "labels" / "final" / "case_1.nrrd")
    store.remove_image("case_1")
    assert gone == ["case_1"]
    assert not [p for p in folder.rglob("case_1*") if p.is_file()]
    store.add_image("case_1", str(folder / "case_2.nii.gz"), {})
    assert opened(folder).json()["objects"]["case_1"]["labels"] == {}


def test_of_two_formats_the_one_that_was_saved_counts_and_the_other_is_told(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    store.save_label("case_1", str(outline(tmp_path)), FINAL, ROD_FIRST)
    shutil.copy(outline(tmp_path, "hand.nrrd", values=(1, 2)), folder / "labels" / "final" / "case_1.nrrd")
    for each in (store, opened(folder)):
        each.refresh()
        assert ball_of(each, folder) == BALL
        assert "case_1.nii.gz, which counts" in each.left_out["labels/final/case_1.nrrd"]


@pytest.mark.parametrize("kill_at", range(7))
def test_a_kill_while_saving_leaves_the_old_or_the_new_label(folder: Path, tmp_path: Path, kill_at: int) -> None:
    store = opened(folder)
    store.save_label("case_1", str(outline(tmp_path)), FINAL, ROD_FIRST)
    new = outline(tmp_path, "n.nrrd", values=(1, 2))
    ball_first = {"label_info": [{"name": "ball", "idx": 1}, {"name": "rod", "idx": 2}]}

    def save() -> None:
        random_steps.kill_after(kill_at)
        store.save_label("case_1", str(new), FINAL, ball_first)

    child = multiprocessing.get_context("fork").Process(target=save)
    child.start()
    child.join(60)
    again = opened(folder)
    assert again.get_labeled_images() == ["case_1"]
    assert ball_of(again, folder) == ball_of(store, folder) == BALL
    (file,) = (folder / "labels" / "final").glob("case_1*")
    assert again.get_label_info("case_1", FINAL)["label_info"][0]["name"] == ("ball" if "nrrd" in file.name else "rod")
    if child.exitcode == 0:
        assert file.suffix == ".nrrd"


# --- another patient under an old name --------------------------------------------------------------------------------


def test_an_outline_does_not_count_for_another_scan_in_the_same_file(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    store.save_label("case_1", str(outline(tmp_path)), FINAL, ROD_FIRST)
    store.save_label("case_1", str(outline(tmp_path, values=(1, 2))), ORIGINAL, {})
    kept = tmp_path / "kept"
    shutil.copy(folder / "case_1.nii.gz", kept)
    shutil.copy(folder / "case_2.nii.gz", folder / "case_1.nii.gz")
    with pytest.raises(UserError, match=r"drawn on another scan.*put the scan back"):
        study_of(store, folder).usable()  # before anybody has looked at the folder
    again = opened(folder)
    assert again.json()["objects"]["case_1"]["labels"] == {}
    assert "drawn on another scan" in again.left_out["labels/final/case_1.nii.gz"]
    assert "made for another scan" in again.left_out["labels/original/case_1.nii.gz"]
    with pytest.raises(UserError, match=r"case_1.*drawn on another scan"):
        study_of(again, folder).usable()
    shutil.copy(kept, folder / "case_1.nii.gz")
    again.refresh()
    assert ball_of(again, folder) == BALL
    assert set(again.json()["objects"]["case_1"]["labels"]) == {FINAL, ORIGINAL}


def test_a_label_of_the_new_scan_counts_beside_one_of_the_old_scan(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    store.save_label("case_1", str(outline(tmp_path)), FINAL, ROD_FIRST)
    shutil.copy(folder / "case_2.nii.gz", folder / "case_1.nii.gz")
    shutil.copy(outline(tmp_path, "n.nrrd", values=(1, 2)), folder / "labels" / "final" / "case_1.nrrd")
    store.refresh()
    assert store.get_label_uri("case_1", FINAL).endswith("case_1.nrrd")
    assert "drawn on another scan" in store.left_out["labels/final/case_1.nii.gz"]


def test_a_label_that_was_copied_over_belongs_to_the_scan_that_it_was_found_with(folder: Path, tmp_path: Path) -> None:
    place = folder / "labels" / "final" / "case_1.nii.gz"
    place.parent.mkdir(parents=True)
    shutil.copy(outline(tmp_path, values=(1, 2)), place)
    assert opened(folder).get_labeled_images() == ["case_1"]
    shutil.copy(folder / "case_2.nii.gz", folder / "case_1.nii.gz")
    assert opened(folder).get_labeled_images() == []


def test_a_scan_that_is_stored_in_another_way_keeps_its_label(folder: Path, tmp_path: Path) -> None:
    store, scan = opened(folder), folder / "case_1.nii.gz"
    store.save_label("case_1", str(outline(tmp_path)), FINAL, ROD_FIRST)
    study_of(store, folder).usable()  # reads the scan, as every save does
    content = gzip.decompress(scan.read_bytes())
    os.utime(scan)
    assert ball_of(opened(folder), folder) == BALL
    scan.write_bytes(gzip.compress(content, compresslevel=1))
    assert ball_of(opened(folder), folder) == BALL
    scan.unlink()
    (folder / "case_1.nii").write_bytes(content)
    assert ball_of(opened(folder), folder) == BALL
    volume = read_volume(folder / "case_1.nii")
    (folder / "case_1.nii").unlink()
    save_nifti(folder / "case_1.nii.gz", volume.array.astype(np.float32), volume.affine)
    assert ball_of(opened(folder), folder) == BALL


def test_an_upload_replaces_another_scan_only_when_it_is_asked_to(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    before = (folder / "case_2.nii.gz").read_bytes()
    other = str(folder / "case_1.nii.gz")
    assert (
        store.add_image("case_2", str(shutil.copy(folder / "case_2.nii.gz", tmp_path / "same.nii.gz")), {}) == "case_2"
    )
    for name in ("x.nii.gz", "x.nii"):  # in the scan's own format, and in another one
        upload = tmp_path / name
        upload.write_bytes(
            Path(other).read_bytes() if name.endswith("gz") else gzip.decompress(Path(other).read_bytes())
        )
        with pytest.raises(HTTPException, match=r"not replaced unasked.*replace") as caught:
            store.add_image("case_2", str(upload), {})
        assert caught.value.status_code == 409
    assert (folder / "case_2.nii.gz").read_bytes() == before
    store.save_label("case_2", str(outline(tmp_path, number=2)), FINAL, ROD_FIRST)
    for info in ({}, {"replace": True}):
        with pytest.raises(HTTPException, match=r"by a person.*delete the other one first"):
            store.add_image("case_2", str(tmp_path / "x.nii"), info)
    store.remove_label("case_2", FINAL)
    store.save_label("case_2", str(outline(tmp_path, number=2)), ORIGINAL, {})
    with pytest.raises(HTTPException, match="with labels"):
        store.add_image("case_2", str(tmp_path / "x.nii"), {})
    store.add_image("case_2", str(tmp_path / "x.nii"), {"replace": True})
    assert sorted(p.name for p in folder.glob("case_2*")) == ["case_2.nii"]
    assert opened(folder).json()["objects"]["case_2"]["labels"] == {}


def unreadable(kind: str, whole: Path) -> bytes:
    """What may come instead of a file."""
    content = whole.read_bytes()
    packed = bytearray(content)
    packed[len(packed) // 2] ^= 0xFF
    made = {
        "nothing": b"",
        "rubbish": bytes(range(256)) * 40,
        "page": b"<html><body>502 Bad Gateway</body></html>",
        "cut": content[: len(content) // 2],
        "cut in its header": content[:40],
        "a flipped bit": bytes(packed),
    }
    return made[kind]


KINDS = ("nothing", "rubbish", "page", "cut", "cut in its header", "a flipped bit")


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        (kind, ending)
        for ending in (".nii.gz", ".nrrd")
        for kind in KINDS
        if (kind, ending) != ("a flipped bit", ".nrrd")
    ],
)
def test_a_file_that_cannot_be_read_never_replaces_an_outline(
    folder: Path, tmp_path: Path, kind: str, ending: str
) -> None:
    store = opened(folder)
    good = outline(tmp_path)
    store.save_label("case_1", str(good), FINAL, ROD_FIRST)
    (tmp_path / f"bad{ending}").write_bytes(unreadable(kind, outline(tmp_path, f"whole{ending}")))
    for tag in (FINAL, ORIGINAL):
        with pytest.raises(HTTPException, match="not saved, and nothing is changed: its file cannot be read") as caught:
            store.save_label("case_1", str(tmp_path / f"bad{ending}"), tag, {})
        assert caught.value.status_code == 422
    assert sorted(p.name for p in (folder / "labels").rglob("*") if p.is_file()) == ["case_1.json", "case_1.nii.gz"]
    assert (folder / "labels" / "final" / "case_1.nii.gz").read_bytes() == good.read_bytes()
    assert ball_of(store, folder) == BALL


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a.dcm", "it is damaged or no DICOM file"),
        ("a.seg.nrrd", "it is a segmentation and no scan"),
        ("a.nrrd", "it is a segmentation and no scan"),
        ("a.nii", "Let its name end with .nii.gz"),
        ("a.mha", "its file cannot be read"),
    ],
)
def test_the_reason_for_which_an_upload_is_refused_fits_its_kind(
    folder: Path, tmp_path: Path, name: str, part: str
) -> None:
    upload = tmp_path / name
    upload.write_bytes((folder / "case_1.nii.gz").read_bytes())
    if name.endswith(".nrrd"):
        upload.write_bytes(b"NRRD0004\nSegment0_ID:=Segment_1\n\n")
    with pytest.raises(HTTPException, match=part) as caught:
        opened(folder).add_image("new", str(upload), {})
    assert caught.value.status_code == 422
    assert name not in caught.value.detail.replace(".nii.gz", "")


@pytest.mark.parametrize("kind", [*KINDS, "colour"])
def test_an_upload_that_is_no_scan_is_refused_and_leaves_nothing_behind(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    store = opened(folder)
    before = sorted(folder.rglob("*"))
    upload = tmp_path / "tmp1234.nii.gz"
    if kind == "colour":
        colours = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        save_nifti(upload, colours, np.eye(4))
    else:
        upload.write_bytes(unreadable(kind, folder / "case_1.nii.gz"))
    for name in ("new", "case_2"):
        with pytest.raises(HTTPException, match="is not stored: its file") as caught:
            store.add_image(name, str(upload), {"replace": True})
        assert caught.value.status_code == 422
        assert ("in colour" if kind == "colour" else "cannot be read") in caught.value.detail
    assert sorted(folder.rglob("*")) == before
    assert sorted(store.list_images()) == ["case_1", "case_2"]


def test_what_was_worked_out_about_a_deleted_scan_goes_with_it(folder: Path) -> None:
    store = opened(folder)
    study = study_of(store, folder)
    store.on_gone = lambda name: forget(study, name)
    for name in ("case_1", "case_2"):
        Scores(study).put_unusable({name: "cannot be read"})
        with OfferedScans(study).choosing():
            OfferedScans(study).mark(name, "c", "recommended")
    store.remove_image("case_1")
    assert list(Scores(study).read()) == OfferedScans(study).recent() == ["case_2"]


# --- structures -------------------------------------------------------------------------------------------------------


def test_structures_follow_a_label_that_is_overwritten_in_place(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.store.found_schema._LOOK_SECONDS", 0.0)
    place = folder / "labels" / "final" / "case_1.nii.gz"
    place.parent.mkdir(parents=True)
    shutil.copy(outline(tmp_path, values=(1, 0)), place)
    study = study_of(opened(folder), folder, labels="")
    assert study.schema.count == 1
    shutil.copy(outline(tmp_path, values=(1, 4)), place)
    assert study.schema.count == 4


def test_values_with_gaps_say_what_to_do_and_names_make_them_clear(folder: Path, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(1)
    file = save_nifti(tmp_path / "free.nii.gz", np.array([0, 1035, 17], np.int16)[label[::2, ::2, ::2]], affine)
    store = opened(folder)
    store.save_label("case_1", str(file), FINAL, {})
    with pytest.raises(UserError, match=r"17, 1035.*name its segments"):
        study_of(store, folder).usable()
    info = {"label_info": [{"name": "ball", "idx": 1035}, {"name": "rod", "idx": 17}]}
    store.save_label("case_1", str(file), FINAL, info)
    assert ball_of(store, folder) == BALL


def test_a_pseudo_label_of_other_structures_is_not_shown_as_these(folder: Path, tmp_path: Path) -> None:
    store = opened(folder)
    info = {"params": {"label_names": {"rod": 1, "ball": 2}}}
    store.save_label("case_1", str(outline(tmp_path)), ORIGINAL, info)
    scan = read_volume(folder / "case_1.nii.gz")
    label = study_of(store, folder).read_stored("case_1", ORIGINAL, scan)
    assert int((label == 1).sum()) == BALL
    with pytest.raises(UserError, match=r"other structures \(rod\)"):
        study_of(store, folder, labels="ball,cube").read_stored("case_1", ORIGINAL, scan)
