"""Accept, send back, take back: by a person, to what was seen, once, whoever else acts at the same time."""

from __future__ import annotations

import io
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from dicomfiles import Labelled, write_series
from dicomserver import PlayedServer
from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.formats.volumes import read_volume
from lib.setup.settings import FROM_SERVER, Settings
from page_parts import named_label, open_study, put_pseudo_label
from server.dicomweb.datastore import DicomWebStudy
from server.exchange import importing
from server.exchange.at_start import import_at_start
from server.scores.scores import QUALITY, Scores
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study
from server.study_page import outlines
from server.study_page.acts import Acts
from server.study_page.scan_rows import rows_of
from server.study_page.work_routes import notice_of
from strategies import MEASURES, HighestUncertainty, Review
from tiny_study import TINY_LABELS, save_nifti, tiny_scan


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = open_study(tmp_path)
    for number in (2, 3, 4):
        put_pseudo_label(study, number)
    return study


def seen(study: Study, name: str) -> str:
    return Acts(study).version(name, ORIGINAL)


def test_what_is_accepted_is_final_with_who_and_when(study: Study) -> None:
    label = tiny_scan(2)[1]
    assert Acts(study).accept("case_2", seen(study, "case_2"), "  Änne\n Weiß ") == []
    stored = np.asarray(nibabel.load(study.datastore.get_label_uri("case_2", FINAL)).dataobj)
    np.testing.assert_array_equal(stored, label)
    facts = study.facts("case_2", FINAL)
    assert (facts.user, facts.names) == ("Änne Weiß", (("ball", 1), ("rod", 2)))
    row = next(row for row in rows_of(study, {}, {}) if row.name == "case_2")
    assert (row.state, row.words) == ("accepted", "Accepted by Änne Weiß")
    assert row.saved > 0
    assert {item.name for item in study.usable()} == {"case_1", "case_2"}  # it counts as a person's label


def test_a_pseudo_label_that_does_not_fit_its_scan_is_not_accepted(study: Study) -> None:
    _, label, affine = tiny_scan(2)
    file = save_nifti(Path(study.location).parent / "cut.nii.gz", label[:-4], affine)
    study.pseudo_labels.save({"case_2": (str(file), {"params": {"label_names": {"ball": 1, "rod": 2}}})})
    with pytest.raises(UserError, match="voxels, but its scan has") as refused:
        Acts(study).accept("case_2", seen(study, "case_2"), "anna")
    assert refused.value.status == 422
    assert study.final_label("case_2") is None
    assert Acts(study).of("case_2") == []


def test_it_can_be_taken_back_once_by_the_same_reader(study: Study) -> None:
    acts = Acts(study)
    Scores(study).add(QUALITY, {"case_2": {QUALITY: 0.8, "raw": 0.8, "dice": [0.8, 0.8]}})
    acts.accept("case_2", seen(study, "case_2"), "anna")
    assert "case_2" not in Scores(study).known(QUALITY)
    with pytest.raises(UserError, match="only anna") as refused:
        acts.undo("case_2", "bert")
    assert refused.value.status == 409
    acts.undo("case_2", "anna")
    assert study.final_label("case_2") is None
    assert study.datastore.get_label_by_image_id("case_2", ORIGINAL)
    assert Scores(study).known(QUALITY)["case_2"] == 0.8
    assert not Scores(study).stale(QUALITY, "case_2")
    with pytest.raises(UserError, match="nothing to take back"):
        acts.undo("case_2", "anna")


def _after_a_start(study: Study) -> Study:
    """The study in a server that imports at its start, and knows of notes by the DICOM server's lists only."""
    assert isinstance(study.datastore, DicomWebStudy)
    server, place = study.datastore.server, study.place.parent
    settings = Settings(labels=study.schema, import_from=FROM_SERVER)
    store = DicomWebStudy(server, place / "cache", search={}, age=0.0, labels=settings.labels, pseudo_labels="never")
    again = Study(server.address, store, settings, place)
    import_at_start(again)
    return again


def test_on_a_dicom_server_it_is_taken_back_by_a_note_and_can_be_accepted_again(tmp_path: Path) -> None:
    array, label, affine = tiny_scan(1)
    write_series(tmp_path / "scan", Labelled(array, label, affine))
    server = PlayedServer()
    server.put_series(tmp_path / "scan")
    schema = LabelSchema(TINY_LABELS)
    store = DicomWebStudy(server, tmp_path / "cache", search={}, age=0.0, labels=schema, pseudo_labels="never")
    store.serving = True
    study = Study(server.address, store, Settings(labels=schema), tmp_path / "models")
    (scan,) = store.list_images()
    file = save_nifti(tmp_path / "pseudo.nii.gz", label, read_volume(Path(store.get_image_uri(scan))).affine)
    study.pseudo_labels.save({scan: (str(file), {"model": "propagate", "params": {"label_names": schema.as_dict()}})})
    acts = Acts(study)
    for _ in range(2):
        acts.accept(scan, seen(study, scan), "anna")
        assert acts.standing()[scan].by == "anna"
        assert next(iter(study.final_labels())).name == scan
        (told,) = acts.undo(scan, "anna")
        assert "stays on the DICOM server" in told
        assert study.final_label(scan) is None
        assert store.get_label_by_image_id(scan, ORIGINAL)
        assert _after_a_start(study).final_label(scan) is None, "what was taken back comes back"
    assert len(server.segs_there()) == len(server.notes) == 2


def test_a_dicom_server_that_is_away_is_told_to_all(tmp_path: Path) -> None:
    array, label, affine = tiny_scan(1)
    write_series(tmp_path / "scan", Labelled(array, label, affine))
    server, schema = PlayedServer(), LabelSchema(TINY_LABELS)
    server.put_series(tmp_path / "scan")
    store = DicomWebStudy(server, tmp_path / "cache", search={}, age=0.0, labels=schema, pseudo_labels="always")
    store.serving = True
    study = Study(server.address, store, Settings(labels=schema), tmp_path / "models")
    (scan,) = store.list_images()
    file = save_nifti(tmp_path / "pseudo.nii.gz", label, read_volume(Path(store.get_image_uri(scan))).affine)
    assert notice_of(study) == ""
    server.away = True
    study.pseudo_labels.save({scan: (str(file), {"model": "propagate", "params": {"label_names": schema.as_dict()}})})
    assert store.list_images() == [scan]
    told = notice_of(study)
    assert told.startswith("The DICOM server cannot be reached. What you see is what was known before.")
    assert told.endswith("1 pseudo-label is not on the DICOM server yet, and sent when that is possible.")
    server.away = False
    store.send_unsent()
    until = time.monotonic() + 60
    while notice_of(study) and time.monotonic() < until:  # it is not asked again at once
        time.sleep(0.1)
        assert store.list_images() == [scan]
    assert notice_of(study) == ""


def test_a_label_that_somebody_has_drawn_since_is_not_taken_back(study: Study, tmp_path: Path) -> None:
    acts = Acts(study)
    acts.accept("case_2", seen(study, "case_2"), "anna")
    drawn = save_nifti(tmp_path / "drawn.nii.gz", np.roll(tiny_scan(2)[1], 1, 0), tiny_scan(2)[2])
    study.datastore.save_label("case_2", str(drawn), FINAL, {})
    with pytest.raises(UserError, match="it stays"):
        acts.undo("case_2", "anna")
    assert study.final_label("case_2") is not None


def test_only_what_was_seen_is_accepted(study: Study) -> None:
    before = seen(study, "case_3")
    put_pseudo_label(study, 3, round=1)
    for act in (Acts(study).accept, Acts(study).send_back):
        with pytest.raises(UserError, match="has changed since you looked") as refused:
            act("case_3", before, "anna")
        assert refused.value.status == 409
    assert study.final_label("case_3") is None


def test_what_cannot_be_accepted_is_said(study: Study) -> None:
    acts = Acts(study)
    with pytest.raises(UserError, match="has a final label already"):
        acts.accept("case_1", "", "anna")
    study.datastore.remove_label("case_4", ORIGINAL)
    with pytest.raises(UserError, match="no pseudo-label") as refused:
        acts.accept("case_4", "", "anna")
    assert refused.value.status == 404
    for nobody in ("", " \t", "\u200b"):
        with pytest.raises(UserError, match="Say who you are"):
            acts.accept("case_2", seen(study, "case_2"), nobody)


def test_what_was_sent_back_is_offered_first_by_every_strategy(study: Study) -> None:
    Acts(study).send_back("case_3", seen(study, "case_3"), "anna")
    answer = Review(study)({}, study.datastore)
    assert (answer["id"], answer["reason"]) == ("case_3", "anna has sent its pseudo-label back.")
    (study.place / "served.json").unlink()
    name, text = next(iter(MEASURES.items()))
    assert HighestUncertainty(study, name, text)({}, study.datastore)["id"] == "case_3"
    with pytest.raises(UserError, match="sent case_3 back already"):
        Acts(study).send_back("case_3", seen(study, "case_3"), "bert")
    file = study.datastore.get_label_uri("case_3", ORIGINAL)
    study.datastore.save_label("case_3", file, FINAL, {})
    assert Acts(study).sent_back() == {}


def test_a_suggestion_gives_the_scan_to_nobody(study: Study) -> None:
    Acts(study).send_back("case_3", seen(study, "case_3"), "anna")
    for _ in range(2):
        assert Review(study).suggest() == {"scan": "case_3", "reason": "anna has sent its pseudo-label back."}
    assert not (study.place / "served.json").exists()


def test_a_line_that_a_kill_has_cut_is_passed_over(study: Study) -> None:
    Acts(study).send_back("case_3", seen(study, "case_3"), "anna")
    with (study.place / "acts.jsonl").open("a") as file:
        file.write('{"act": "accept", "scan": "ca')
    acts = Acts(study)
    assert list(acts.sent_back()) == ["case_3"]
    acts.send_back("case_2", seen(study, "case_2"), "anna")
    assert sorted(Acts(study).sent_back()) == ["case_2", "case_3"]


def test_four_readers_at_once_lose_and_double_nothing(study: Study) -> None:
    """Each act that was confirmed counts once, in one order, and what stands is what the study holds."""
    names, done, lock = ("case_2", "case_3", "case_4"), [], threading.Lock()

    def read(reader: str) -> None:
        acts, choose = Acts(study), random.Random(reader)
        for _ in range(75):  # as chance and threads have it, one in four or five is carried out
            name = choose.choice(names)
            try:
                what = choose.choice(("accept", "send_back", "undo"))
                if what == "undo":
                    acts.undo(name, reader)
                else:
                    getattr(acts, what)(name, seen(study, name), reader)
            except UserError:
                continue
            with lock:
                done.append((what, name, reader))

    readers = [threading.Thread(target=read, args=(name,)) for name in ("anna", "bert", "carla", "dora")]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    acts = Acts(study)
    noted = [(act.act, act.scan, act.by) for name in names for act in acts.of(name)]
    assert sorted(noted) == sorted(done)
    assert len(done) > 20
    finals = {item.name for item in study.final_labels()} - {"case_1"}
    assert finals == {name for name, act in acts.standing().items() if act.act == "accept"}
    for name in finals:
        assert study.facts(name, FINAL).user == acts.standing()[name].by


@pytest.mark.parametrize("named", [True, False], ids=["names in the file", "values only"])
def test_of_two_readers_who_bring_a_file_at_once_one_is_told_of_the_other(
    study: Study, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    module = importing if named else outlines
    file = named_label(2) if named else Path(study.datastore.get_label_uri("case_2", ORIGINAL)).read_bytes()
    read, write = threading.Barrier(2, timeout=60), module.write_label

    def both_have_read(*args: Any) -> None:
        read.wait()
        write(*args)

    monkeypatch.setattr(module, "write_label", both_have_read)

    def bring(reader: str) -> UserError | None:
        try:
            upload = "label.seg.nrrd" if named else "label.nii.gz", io.BytesIO(file)
            outlines.take_outline(study, Acts(study), "case_2", reader, upload)
        except UserError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as readers:
        answers = dict(zip(("anna", "ben"), readers.map(bring, ("anna", "ben")), strict=True))
    (first,) = (reader for reader, error in answers.items() if error is None)
    (refused,) = (error for error in answers.values() if error is not None)
    assert refused.status == 409
    assert f"has a final label already, saved by {first}" in str(refused)
    assert study.facts("case_2", FINAL).user == first
