"""What of a study is exported, and under which conditions; and the command line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from dicomfiles import Labelled, write_series
from dicomserver import PlayedServer
from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.dicom_seg import read_seg
from lib.exchange import Outcome
from lib.exchange.incoming import find_labels
from lib.formats.volumes import read_volume
from lib.selection.measures import QUALITY
from lib.setup.settings import Settings
from lib.specialists import predict
from scored_study import put_pseudo_labels, put_specialist
from server.dicomweb.datastore import DicomWebStudy
from server.exchange.exporting import ExportRequest, export_specialist, export_study
from server.exchange.importing import ImportRequest, import_labels
from server.scores.scores import Scores
from server.store.folder_store import FINAL, StudyDatastore
from server.store.study import Study
from tiny_study import ROOT, TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

SETTINGS = Settings(labels=LabelSchema(TINY_LABELS))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """case_1 is outlined; case_2 to case_4 have pseudo-labels, of which two were judged."""
    folder = make_tiny_study(tmp_path / "study", scans=5)
    study = Study(str(folder), StudyDatastore(str(folder)), SETTINGS, tmp_path / "models")
    put_pseudo_labels(study, tmp_path)
    Scores(study).add(QUALITY, {"case_2": {QUALITY: 0.91}, "case_3": {QUALITY: 0.4}})
    return study


def _export(study: Study, folder: Path, form: str = "nifti", **more: object) -> Outcome:
    return export_study(study, ExportRequest(folder, form, **more), lambda done, total, name: None)  # type: ignore[arg-type]


def _rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return {row["scan"]: row for row in csv.DictReader(file)}


def test_finals_only_unless_pseudo_labels_are_asked_for(study: Study, tmp_path: Path) -> None:
    assert _export(study, tmp_path / "finals").written == ["case_1"]
    outcome = _export(study, tmp_path / "all", pseudo_labels=True)
    assert outcome.written == ["case_1", "case_2", "case_3", "case_4"]
    rows = _rows(tmp_path / "all")
    assert [rows[name]["label"] for name in outcome.written] == [
        "final",
        "pseudo-label",
        "pseudo-label",
        "pseudo-label",
    ]
    assert [rows[name]["estimated_dice"] for name in outcome.written] == ["", "0.91", "0.4", ""]
    good = _export(study, tmp_path / "good", pseudo_labels=True, least_quality=0.8)
    assert good.written == ["case_1", "case_2"]
    assert "is estimated as 0.40; at least 0.8" in good.refused["case_3"]
    assert "has not been estimated" in good.refused["case_4"]


def test_part_of_the_study_by_names_and_patterns(study: Study, tmp_path: Path) -> None:
    assert _export(study, tmp_path / "a", scans=("case_1", "*_4"), pseudo_labels=True).written == ["case_1", "case_4"]
    with pytest.raises(UserError, match="no scan 'ward\\*'"):
        _export(study, tmp_path / "b", scans=("case_1", "ward*"))
    with pytest.raises(UserError, match=r"None of these 1 scan.*--pseudo-labels"):
        _export(study, tmp_path / "b", scans=("case_2",))
    assert not (tmp_path / "b").exists()


def test_a_label_that_cannot_be_used_does_not_stop_the_others(study: Study, tmp_path: Path) -> None:
    bad = tmp_path / "study" / "labels" / "final" / "case_5.nii.gz"
    save_nifti(bad, np.full((3, 3, 3), 7, np.uint8), np.eye(4))
    study.datastore.refresh()
    outcome = _export(study, tmp_path / "out")
    assert outcome.written == ["case_1"]
    assert "case_5" in outcome.refused


def test_a_changed_label_is_written_anew(study: Study, tmp_path: Path) -> None:
    _export(study, tmp_path / "out")
    image, label, affine = tiny_scan(1)
    label[label == 2] = 0
    file = save_nifti(tmp_path / "new.nii.gz", label, affine)
    study.datastore.serving = True
    study.datastore.save_label("case_1", str(file), FINAL, {"user": "ada"})
    assert _export(study, tmp_path / "out").written == ["case_1"]
    row = _rows(tmp_path / "out")["case_1"]
    assert (row["rod ml"], row["by"]) == ("0.0", "ada")
    assert image.shape == label.shape


def test_three_outlined_slices_become_the_ignore_label(study: Study, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(1)
    planes = np.zeros(label.shape, bool)
    planes[12], planes[:, 15], planes[:, :, 14] = True, True, True
    ball = np.where(planes & (label == 1), 1, 0).astype(np.uint8)
    file = save_nifti(tmp_path / "new.nii.gz", ball, affine)
    study.datastore.serving = True
    study.datastore.save_label("case_1", str(file), FINAL, {})
    folder = tmp_path / "Dataset501_Tiny"
    _export(study, folder, "nnunet")
    stored = read_volume(folder / "labelsTr" / "case_1.nii.gz").array
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"]["ignore"] == 3
    assert (stored == 3).sum() > 0.8 * stored.size
    assert (stored == 1).sum() == (ball == 1).sum()


@pytest.mark.parametrize("said", ["planes", "all"])
@pytest.mark.parametrize("form", ["nifti", "bids", "nnunet"])
def test_what_is_annotated_comes_back(study: Study, tmp_path: Path, form: str, said: str) -> None:
    """Whatever the label looks like: a person has said it."""
    _, label, affine = tiny_scan(1)
    planes = np.zeros(label.shape, bool)
    planes[12], planes[:, 15], planes[:, :, 14] = True, True, True
    if said == "planes":
        planes[12], planes[:, 15] = False, False  # only one of the three slices shows anything of the ball
    ball = np.where(planes & (label == 1), 1, 0).astype(np.uint8)
    study.datastore.serving = True
    study.datastore.save_label(
        "case_1", str(save_nifti(tmp_path / "new.nii.gz", ball, affine)), FINAL, {"annotated": said}
    )
    folder = tmp_path / "Dataset501_Tiny"
    _export(study, folder, form)
    place = str(make_tiny_study(tmp_path / "other", scans=1, finals=0))
    other = Study(place, StudyDatastore(place), SETTINGS, tmp_path / "models")
    (line,) = import_labels(other, find_labels([folder]), ImportRequest(), lambda done, total, name: None)
    assert line.result == "imported", line.reason
    item = other.final_label("case_1")
    assert item is not None
    assert (other.check(item).planes is not None) == (said == "planes")


def test_an_export_into_the_study_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lies within the study"):
        _export(study, tmp_path / "study" / "out")
    assert not (tmp_path / "study" / "out").exists()


def test_a_study_on_a_dicom_server_gives_seg_and_rtstruct(tmp_path: Path) -> None:
    array, label, affine = tiny_scan(1)
    uid = write_series(tmp_path / "scan", Labelled(array, label, affine))[1]
    server = PlayedServer()
    server.put_series(tmp_path / "scan")
    schema = LabelSchema(TINY_LABELS)
    store = DicomWebStudy(server, tmp_path / "cache", search={}, age=0.0, labels=schema, pseudo_labels="last")
    store.serving = True
    volume = read_volume(store.get_image_uri(uid))
    store.save_label(uid, str(save_nifti(tmp_path / "label.nii.gz", label, volume.affine)), FINAL, {})
    study = Study(server.address, store, SETTINGS, tmp_path / "models")
    for form in ("seg", "rtstruct", "nifti"):
        assert _export(study, tmp_path / form, form).written == [uid]
    seg = pydicom.dcmread(tmp_path / "seg" / f"{uid}.dcm")
    np.testing.assert_array_equal(read_seg(seg, volume), label)
    assert seg.SOPInstanceUID != server.segs_there()[0].SOPInstanceUID


@pytest.mark.slow
def test_the_command_line_exports_and_says_how_far_it_is(tmp_path: Path) -> None:
    folder = make_tiny_study(tmp_path / "study", scans=2, finals=2)
    app = ROOT / "apps" / "semisam" / "main.py"
    command = [sys.executable, str(app), "export", "--studies", str(folder), "--conf", "labels", ",".join(TINY_LABELS)]
    result = subprocess.run(
        [*command, "--to", str(tmp_path / "out"), "--format", "nifti"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert f"2 scan(s) written to {tmp_path / 'out'}." in result.stdout
    assert "Export: 2 of 2 scans" in result.stderr
    wrong = subprocess.run(
        [*command, "--to", str(tmp_path / "out"), "--format", "png"], capture_output=True, check=False
    )
    assert wrong.returncode == 2


def test_probabilities_of_the_trained_network(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train first"):
        _export(study, tmp_path / "out", probabilities=True)
    assert not (tmp_path / "out").exists()
    put_specialist(study)
    with pytest.raises(UserError, match="bids has no room for probabilities"):
        _export(study, tmp_path / "out", "bids", probabilities=True)
    assert _export(study, tmp_path / "out", probabilities=True).written == ["case_1"]
    scan = read_volume(study.datastore.get_image_uri("case_1"))
    found = predict(study.specialist("cpu"), scan)
    for value, name in enumerate(TINY_LABELS, 1):
        stored = nibabel.load(tmp_path / "out" / "probabilities" / "case_1" / f"{name}.nii.gz")
        values = np.asarray(stored.dataobj)
        assert (values.dtype, values.shape) == (np.uint8, scan.shape)
        np.testing.assert_allclose(stored.affine, scan.affine)
        np.testing.assert_allclose(values / 255, found.probability_map(value), atol=0.5 / 255 + 1e-6)
    assert _rows(tmp_path / "out")["case_1"]["file"] == "labels/case_1.nii.gz"
    assert _export(study, tmp_path / "out", probabilities=True).kept == ["case_1"]
    put_specialist(study, seed=1)
    assert _export(study, tmp_path / "out", probabilities=True).written == ["case_1"]
    assert _export(study, tmp_path / "out").written == ["case_1"]
    assert not (tmp_path / "out" / "probabilities").exists()


def test_the_trained_network(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train first"):
        export_specialist(study, tmp_path / "out", "bundle")
    put_specialist(study)
    with pytest.raises(UserError, match="within the study"):
        export_specialist(study, Path(study.location) / "out", "bundle")
    export_specialist(study, tmp_path / "out", "bundle")
    assert (tmp_path / "out" / "models" / "model.ts").is_file()
