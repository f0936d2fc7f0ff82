"""Labels of other programs become final: in a folder, on a DICOM server, and by the command line."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from dicomfiles import Labelled, write_series
from dicomserver import Exam
from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.dicom_seg import Origin, Segment, write_seg
from lib.exchange.incoming import find_labels
from lib.exchange.rtstruct import write_rtstruct
from lib.formats.volumes import read_volume
from lib.setup.settings import Settings
from scored_study import put_pseudo_labels
from server.dicomweb.datastore import DicomWebStudy
from server.exchange.importing import IMPORTED, KEPT, OLDER, REFUSED, WOULD_BE, ImportRequest, Line, import_labels
from server.exchange.on_server import fetched_objects
from server.store.folder_store import FINAL, StudyDatastore
from server.store.study import Study
from tiny_study import ROOT, TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

PERSON = Origin("drawn elsewhere", None, person=True)
SEGMENTS = (Segment(1, "BALL", (255, 0, 0)), Segment(2, "Stab", (0, 255, 0)))
SETTINGS = Settings(labels=LabelSchema(TINY_LABELS))
TABLE = "name,structure,found in\nStab,rod,\n"


def _study(folder: Path, models: Path, settings: Settings = SETTINGS) -> Study:
    return Study(str(folder), StudyDatastore(str(folder)), settings, models)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two DICOM scans and two in NIfTI; nothing is outlined."""
    folder = make_tiny_study(tmp_path / "study", scans=2, finals=0)
    for name in ("P1", "P2"):
        write_series(folder / name, Labelled(*tiny_scan(int(name[1]) + 2)), patient=name)
    return _study(folder, tmp_path / "models")


@pytest.fixture
def labels(study: Study, tmp_path: Path) -> Path:
    """An RTSTRUCT of P1, a SEG of P2, and a label map of case_1."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for name, make in (("P1", write_rtstruct), ("P2", write_seg)):
        series = tmp_path / "study" / name
        label = tiny_scan(int(name[1]) + 2)[1]
        dataset = make(label, read_volume(series).affine, series, SEGMENTS, PERSON)
        dataset.save_as(folder / f"{make.__name__}.dcm", write_like_original=False)
    _, label, affine = tiny_scan(1)
    save_nifti(folder / "case_1.nii.gz", label, affine)
    return folder


def _import(study: Study, *paths: Path, **request: object) -> dict[str, Line]:
    found = find_labels(list(paths), Path(study.location) if "://" not in study.location else None)
    asked = ImportRequest(**request)  # type: ignore[arg-type]
    return {line.source: line for line in import_labels(study, found, asked, lambda done, total, name: None)}


def _stored(study: Study, name: str) -> np.ndarray:
    item = study.final_label(name)
    assert item is not None
    return study.template(item).label


def test_nothing_is_imported_until_all_names_are_known(study: Study, labels: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 name\(s\) are none of the study's structures \(ball, rod\): 'value 1'"):
        _import(study, labels)
    names = tmp_path / "names.csv"
    with pytest.raises(UserError, match="lists all names: fill in the structure of each, or - to leave it out"):
        _import(study, labels, names=names)
    rows = list(csv.reader(names.read_text(encoding="utf-8").splitlines()))
    assert [row[:2] for row in rows[1:]] == [["value 1", ""], ["value 2", ""], ["BALL", "ball"], ["Stab", ""]]
    assert study.final_labels() == []
    names.write_text("name,structure,found in\nvalue 1,ball,\nvalue 2,rod,\nStab,rod,\n", encoding="utf-8")
    lines = _import(study, labels, names=names)
    assert {line.result for line in lines.values()} == {IMPORTED}
    for name, number in (("case_1", 1), ("P1", 3), ("P2", 4)):
        np.testing.assert_array_equal(_stored(study, name), tiny_scan(number)[1])
    assert study.facts("P1", FINAL).more["imported"] == {"file": "write_rtstruct.dcm", "kind": "RTSTRUCT"}


def test_another_process_sees_what_was_imported(study: Study, labels: Path, tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text(TABLE, encoding="utf-8")
    _import(study, labels / "write_seg.dcm", names=tmp_path / "n.csv")
    other = _study(Path(study.location), tmp_path / "models2", Settings())
    assert other.schema.names == TINY_LABELS, "also where no structures are set"
    np.testing.assert_array_equal(_stored(other, "P2"), tiny_scan(4)[1])


def test_a_table_makes_the_structures_of_a_new_study(labels: Path, tmp_path: Path) -> None:
    study = _study(tmp_path / "study", tmp_path / "models", Settings())
    with pytest.raises(UserError, match="which are not known yet"):
        _import(study, labels / "write_seg.dcm", leave_out_others=True)
    (tmp_path / "n.csv").write_text("name,structure,found in\nBALL,Kugel,\nStab,-,\n", encoding="utf-8")
    assert _import(study, labels / "write_seg.dcm", names=tmp_path / "n.csv")["write_seg.dcm"].result == IMPORTED
    assert study.schema.names == ("Kugel",)
    np.testing.assert_array_equal(_stored(study, "P2"), tiny_scan(4)[1] == 1)


def test_finals_that_are_there_stay_unless_asked(study: Study, labels: Path, tmp_path: Path) -> None:
    assert _import(study, labels / "write_seg.dcm", leave_out_others=True)["write_seg.dcm"].result == IMPORTED
    before = study.label_stamp("P2", FINAL)
    (tmp_path / "n.csv").write_text(TABLE, encoding="utf-8")
    line = _import(study, labels / "write_seg.dcm", names=tmp_path / "n.csv")["write_seg.dcm"]
    assert (line.result, line.scan) == (KEPT, "P2")
    assert study.label_stamp("P2", FINAL) == before
    _import(study, labels / "write_seg.dcm", names=tmp_path / "n.csv", replace=True)
    np.testing.assert_array_equal(_stored(study, "P2"), tiny_scan(4)[1])


def test_structures_that_are_left_out_or_absent_are_said(study: Study, labels: Path) -> None:
    line = _import(study, labels / "write_rtstruct.dcm", leave_out_others=True)["write_rtstruct.dcm"]
    assert (line.result, line.reason) == (IMPORTED, "it has no rod, which counts as absent from the scan")


def test_a_dry_run_stores_nothing(study: Study, labels: Path) -> None:
    assert {line.result for line in _import(study, labels, leave_out_others=True, dry_run=True).values()} == {
        WOULD_BE,
        REFUSED,
    }
    assert study.final_labels() == []


def test_one_label_a_scan_and_each_refusal_has_its_reason(study: Study, labels: Path, tmp_path: Path) -> None:
    shutil.copy(labels / "write_seg.dcm", labels / "again.dcm")
    (labels / "broken.nii.gz").write_bytes(b"x")
    other = write_seg(
        tiny_scan(4)[1], read_volume(tmp_path / "study" / "P2").affine, tmp_path / "study" / "P2", SEGMENTS, PERSON
    )
    for segment in other.SegmentSequence:
        segment.SegmentLabel = f"x{segment.SegmentNumber}"
    other.save_as(labels / "other things.dcm", write_like_original=False)
    (tmp_path / "n.csv").write_text(TABLE + "value 1,-,\nvalue 2,-,\nx1,-,\nx2,-,\n", encoding="utf-8")
    lines = _import(study, labels, names=tmp_path / "n.csv")
    assert lines["write_rtstruct.dcm"].result == IMPORTED
    assert {name: line.result for name, line in lines.items() if line.result == REFUSED}.keys() == {
        *("again.dcm", "write_seg.dcm", "broken.nii.gz", "case_1.nii.gz", "other things.dcm"),
    }
    assert (
        "There are 2 labels of this scan (again.dcm, write_seg.dcm). Give one of them, or" in lines["again.dcm"].reason
    )
    assert "none of the study's structures" in lines["other things.dcm"].reason
    assert "cannot be read" in lines["broken.nii.gz"].reason


def test_of_several_objects_the_newest_is_taken_when_asked(study: Study, labels: Path, tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text(TABLE, encoding="utf-8")
    older = pydicom.dcmread(labels / "write_seg.dcm")
    for file, day in (("older.dcm", "20010101"), ("same.dcm", "20010101")):
        older.InstanceCreationDate, older.SOPInstanceUID = day, generate_uid()
        older.save_as(labels / file)
    asked = labels / "write_seg.dcm", labels / "older.dcm", labels / "same.dcm"
    lines = _import(study, *asked[1:], names=tmp_path / "n.csv", newest=True)
    assert {line.result for line in lines.values()} == {REFUSED}
    assert "--newest cannot tell which was made last" in lines["same.dcm"].reason
    lines = _import(study, *asked, names=tmp_path / "n.csv", newest=True)
    assert [lines[each.name].result for each in asked] == [IMPORTED, OLDER, OLDER]
    assert lines["older.dcm"].reason == "write_seg.dcm was made later."


def test_a_label_without_a_word_about_its_scan_can_be_given_one(study: Study, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(2)
    file = save_nifti(tmp_path / "from_mail.nii.gz", label, affine)
    (tmp_path / "n.csv").write_text("name,structure,found in\nvalue 1,ball,\nvalue 2,rod,\n", encoding="utf-8")
    line = _import(study, file, names=tmp_path / "n.csv")["from_mail.nii.gz"]
    assert "no scan 'from_mail'" in line.reason
    assert _import(study, file, names=tmp_path / "n.csv", scan="case_2")["from_mail.nii.gz"].result == IMPORTED
    with pytest.raises(UserError, match="no scan 'x'"):
        _import(study, file, scan="x")
    with pytest.raises(UserError, match="one label belongs, but there are 2"):
        _import(study, file, file, scan="case_2")


def test_the_pseudo_label_of_an_imported_scan_is_settled(tmp_path: Path) -> None:
    folder = make_tiny_study(tmp_path / "study", scans=4, finals=1)
    study = _study(folder, tmp_path / "models")
    put_pseudo_labels(study, tmp_path)
    _, label, affine = tiny_scan(2)
    (tmp_path / "n.csv").write_text("name,structure,found in\nvalue 1,ball,\nvalue 2,rod,\n", encoding="utf-8")
    _import(study, save_nifti(tmp_path / "in" / "case_2.nii.gz", label, affine), names=tmp_path / "n.csv")
    assert "case_2" not in study.unlabelled()


# --- a DICOM server ---------------------------------------------------------------------------------------------------


def test_structure_sets_on_the_server_become_its_segs(tmp_path: Path) -> None:
    array, label, affine = tiny_scan(1)
    uid = write_series(tmp_path / "scan", Labelled(array, label, affine))[1]
    server = Exam()
    server.put_series(tmp_path / "scan")
    schema = SETTINGS.labels
    store = DicomWebStudy(server, tmp_path / "cache", search={}, age=0.0, labels=schema, pseudo_labels="always")
    study = Study(server.address, store, SETTINGS, tmp_path / "models")
    volume = read_volume(store.get_image_uri(uid))
    pseudo = str(save_nifti(tmp_path / "pseudo.nii.gz", np.roll(label, 1, 0), volume.affine))
    store.save_label(uid, pseudo, "original", {"params": {"label_names": {"ball": 1, "rod": 2}}})
    server.structure_sets.append(write_rtstruct(label, volume.affine, tmp_path / "scan", SEGMENTS, PERSON))
    (tmp_path / "n.csv").write_text(TABLE, encoding="utf-8")
    with fetched_objects(study, wanted=True) as fetched:
        lines = _import(study, *fetched.folders, names=tmp_path / "n.csv")
    assert [(line.scan, line.result) for line in lines.values()] == [(uid, IMPORTED)]
    np.testing.assert_array_equal(_stored(study, uid), label)
    assert len(server.segs_there()) == 2, "the pseudo-label and the imported one"
    assert not any(path.exists() for path in fetched.folders)


def test_segs_with_other_names_are_mapped(tmp_path: Path) -> None:
    array, label, affine = tiny_scan(1)
    uid = write_series(tmp_path / "scan", Labelled(array, label, affine))[1]
    server = Exam()
    server.put_series(tmp_path / "scan")
    volume = read_volume(tmp_path / "scan")
    seg = write_seg(label, volume.affine, tmp_path / "scan", SEGMENTS, PERSON)
    seg.SeriesInstanceUID = generate_uid()
    server.put_seg(seg)
    store = DicomWebStudy(server, tmp_path / "c", search={}, age=0.0, labels=SETTINGS.labels, pseudo_labels="last")
    study = Study(server.address, store, SETTINGS, tmp_path / "models")
    assert study.final_labels() == [], "the study does not know the name Stab"
    (tmp_path / "n.csv").write_text(TABLE, encoding="utf-8")
    with fetched_objects(study, wanted=True) as fetched:
        _import(study, *fetched.folders, names=tmp_path / "n.csv")
    np.testing.assert_array_equal(_stored(study, uid), label)


def test_a_server_is_asked_only_where_there_is_one(study: Study) -> None:
    with (
        pytest.raises(UserError, match="--from-server is for a study on a DICOM server"),
        fetched_objects(study, wanted=True),
    ):
        pass
    with fetched_objects(study, wanted=False) as fetched:
        assert fetched.folders == []


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_an_rtstruct_to_a_final_label_by_one_command(study: Study, labels: Path, tmp_path: Path) -> None:
    app = ROOT / "apps" / "semisam" / "main.py"
    command = [
        sys.executable,
        str(app),
        "import",
        "--studies",
        study.location,
        "--conf",
        "labels",
        ",".join(TINY_LABELS),
    ]
    command += ["--from", str(labels), "--names", str(tmp_path / "names.csv"), "--report", str(tmp_path / "report.csv")]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    first = run()
    assert (first.returncode, first.stdout) == (1, "")
    assert "fill in the structure of each" in first.stderr
    assert "Traceback" not in first.stderr
    rows = (tmp_path / "names.csv").read_text(encoding="utf-8")
    for name, structure in (("Stab", "rod"), ("value 1", "ball"), ("value 2", "-")):
        rows = rows.replace(f"{name},,", f"{name},{structure},")
    (tmp_path / "names.csv").write_text(rows, encoding="utf-8")
    second = run()
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == [
        "3 label(s) imported.",
        "  case_1 from case_1.nii.gz: it has no rod, which counts as absent from the scan",
    ]
    report = list(csv.DictReader((tmp_path / "report.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["scan"], row["result"]) for row in report] == [
        ("case_1", "imported"),
        ("P1", "imported"),
        ("P2", "imported"),
    ]
    assert len(list((Path(study.location) / "labels" / "final").glob("*.nii.gz"))) == 3
    assert pydicom.dcmread(labels / "write_seg.dcm").Modality == "SEG"
