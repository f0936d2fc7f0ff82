"""Exports: every format's files, their table, and what happens when one is killed, repeated, or meets other files."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from filelock import FileLock

from dicomfiles import Labelled, write_series
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.core.sparse_labels import Planes
from lib.dicom_seg import Origin, Segment, read_seg
from lib.exchange import FORMATS, Candidate, ExportFolder, ExportOptions, LabelledScan, Outcome, export_format
from lib.exchange.rtstruct import RtStruct, read_rtstruct
from lib.formats.channels import set_channels
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from tiny_study import TINY_LABELS, tiny_scan

NAMES = ("case_1", "Zahn, links", "zahn, Links", "sub-02_ses-1_T1w")
STRUCTURES = tuple(Segment(n, name, (10 * n, 20, 30)) for n, name in enumerate(TINY_LABELS, 1))
PERSON, PROGRAM = Origin("by hand", None, person=True), Origin("guessed", "semisam", person=False)
TURNED = np.array([[0, 0, -3.0, 40], [3.0, 0, 0, -50], [0, -3.0, 0, 60], [0, 0, 0, 1]])
"""Axes of the scan: anterior, inferior, left."""


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom") / "series"
    write_series(folder, Labelled(*tiny_scan(1)))
    return folder


@pytest.fixture
def cases(series: Path) -> dict[str, LabelledScan]:
    """A DICOM scan, one that lies askew, one with a pseudo-label, and one with three outlined slices."""
    first = read_volume(series)
    found = [LabelledScan(NAMES[0], first, tiny_scan(1)[1], STRUCTURES, PERSON, saved=1_700_000_000, series=series)]
    for number, name in enumerate(NAMES[1:], start=2):
        array, label, affine = tiny_scan(number)
        scan = Volume(array.astype(np.float32), TURNED if number == 2 else affine)
        origin, quality = (PROGRAM, 0.8123456) if number == 3 else (PERSON, None)
        planes = Planes((12, 15, 14)) if number == 4 else None
        found.append(LabelledScan(name, scan, label, STRUCTURES, origin, planes, quality, by="Dr. Ä"))
    return {each.name: each for each in found}


def _export(
    folder: Path,
    form: str,
    cases: Sequence[LabelledScan],
    say: Callable[[int, str], object] = lambda done, name: None,
    stamps: Callable[[str], object] = lambda name: 1,
    **options: object,
) -> Outcome:
    chosen = export_format(form, ExportOptions(NAMES, TINY_LABELS, **options))  # type: ignore[arg-type]
    wanted = [Candidate(each.name, {"v": stamps(each.name)}, lambda each=each: each) for each in cases]  # type: ignore[misc]
    return ExportFolder(folder, chosen).export(wanted, say)


def _place(folder: Path, form: str) -> Path:
    return folder / ("Dataset501_Tiny" if form == "nnunet" else form)


def _files(folder: Path) -> dict[str, str]:
    """All files but notes, and a digest of each."""
    found = [each for each in folder.rglob("*") if each.is_file() and ".semisam-export" not in each.parts]
    return {str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest() for each in found}


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- formats ----------------------------------------------------------------------------------------------------------


def test_an_nnunet_data_set_has_the_same_voxels_turned_upright(tmp_path: Path, cases: dict[str, LabelledScan]) -> None:
    folder = _place(tmp_path, "nnunet")
    _export(folder, "nnunet", list(cases.values()))
    described = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert described["labels"] == {"background": 0, "ball": 1, "rod": 2, "ignore": 3}
    assert (described["numTraining"], described["file_ending"]) == (4, ".nii.gz")
    assert described["channel_names"] == {"0": "image"}
    for row in _table(folder):
        case, scan = Path(row["file"]).name[: -len(".nii.gz")], cases[row["scan"]]
        image = nibabel.load(folder / "imagesTr" / f"{case}_0000.nii.gz")
        label = nibabel.load(folder / "labelsTr" / f"{case}.nii.gz")
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(label.affine, image.affine)
        volume = read_volume(folder / "imagesTr" / f"{case}_0000.nii.gz")
        back = read_label(folder / "labelsTr" / f"{case}.nii.gz", scan.scan, LabelSchema((*TINY_LABELS, "ignore")))
        assert volume.array.sum() == scan.scan.array.sum()
        known = np.ones(back.shape, bool) if scan.planes is None else scan.planes.mask(back.shape)
        np.testing.assert_array_equal(back[known], scan.label[known])
        assert (back[~known] == 3).all()
    assert described["pseudo_labels"] == [
        Path(row["file"]).name[:-7] for row in _table(folder) if row["label"] != "final"
    ]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nnunetv2") is None, reason="nnU-Net is not installed")
@pytest.mark.parametrize("sparse", [False, True])
def test_nnunet_itself_finds_its_data_set_whole(
    tmp_path: Path, cases: dict[str, LabelledScan], capfd: pytest.CaptureFixture[str], sparse: bool
) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    folder = _place(tmp_path, "nnunet")
    _export(folder, "nnunet", list(cases.values())[: 4 if sparse else 3])
    verify_dataset_integrity(str(folder), num_processes=1)
    said = capfd.readouterr().out
    assert "verify_dataset_integrity Done" in said
    assert "Error" not in said
    assert "mismatch" not in said


def test_nnunet_has_its_own_names(tmp_path: Path, cases: dict[str, LabelledScan]) -> None:
    with pytest.raises(UserError, match="Dataset501_Liver"):
        _export(tmp_path / "out", "nnunet", list(cases.values()))
    form = export_format("nnunet", ExportOptions(NAMES, ("liver", "Ignore")))
    with pytest.raises(UserError, match="nnU-Net uses the name 'Ignore'"):
        ExportFolder(tmp_path / "Dataset001_x", form)
    assert not (tmp_path / "Dataset001_x").exists()
    _export(tmp_path / "Dataset001_x", "nnunet", list(cases.values())[:1], channels=("CT",))
    described = json.loads((tmp_path / "Dataset001_x" / "dataset.json").read_text(encoding="utf-8"))
    assert (described["channel_names"], "ignore" in described["labels"]) == ({"0": "CT"}, False)


def test_an_nnunet_data_set_has_all_channels(tmp_path: Path, cases: dict[str, LabelledScan]) -> None:
    case = next(iter(cases.values()))
    two = replace(case, scan=replace(case.scan, further=(1000 - case.scan.array,)))
    folder = tmp_path / "Dataset001_x"
    _export(folder, "nnunet", [two], channels=("T1", "T2"))
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "T1", "1": "T2"}
    first, second = (np.asarray(nibabel.load(folder / "imagesTr" / f"case_1_000{n}.nii.gz").dataobj) for n in (0, 1))
    np.testing.assert_allclose(second, 1000 - first.astype(np.float32))


def test_bids_derivatives_say_whose_label_it_is(tmp_path: Path, cases: dict[str, LabelledScan]) -> None:
    folder = tmp_path / "bids"
    _export(folder, "bids", list(cases.values()))
    described = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "semisam"
    base = folder / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_desc-T1wManual_dseg"
    facts = json.loads(base.with_suffix(".json").read_text(encoding="utf-8"))
    assert (facts["Manual"], facts["AnnotatedPlanes"]) == (True, [12, 15, 14])
    assert base.with_suffix(".tsv").read_text(encoding="utf-8").splitlines() == [
        "index\tname\tcolor",
        "1\tball\t#0A141E",
        "2\trod\t#14141E",
    ]
    (pseudo,) = folder.glob("*/anat/*_desc-pseudo_dseg.json")
    facts = json.loads(pseudo.read_text(encoding="utf-8"))
    assert (facts["Manual"], facts["EstimatedDice"], facts["ScanName"]) == (False, 0.8123, "zahn, Links")
    label = nibabel.load(pseudo.with_suffix("").with_suffix(".nii.gz"))
    np.testing.assert_array_equal(np.asarray(label.dataobj), cases["zahn, Links"].label)


def test_a_nifti_export_with_scans_has_all_their_channels(tmp_path: Path, cases: dict[str, LabelledScan]) -> None:
    one, case = cases["zahn, Links"], cases["Zahn, links"]
    two = replace(case, scan=replace(case.scan, further=(case.scan.array / 2 + 0.25,)))
    _export(tmp_path / "one", "nifti", [one], with_scans=True)
    assert nibabel.load(next((tmp_path / "one" / "scans").iterdir())).shape == one.scan.shape
    folder = tmp_path / "nifti"
    _export(folder, "nifti", [two], with_scans=True)  # as a version wrote it that knew no channels
    assert _export(folder, "nifti", [two], with_scans=True, channels=("T1", "T2")).written == [two.name]
    file = next((folder / "scans").iterdir())
    assert nibabel.load(file).shape == (*two.scan.shape, 2)
    set_channels(("T1", "T2"))
    try:
        back = read_volume(file)
    finally:
        set_channels(())
    np.testing.assert_array_equal(back.array, two.scan.array)
    np.testing.assert_array_equal(back.further, two.scan.further)
    np.testing.assert_allclose(back.affine, two.scan.affine, atol=1e-5)
    read_label(next((folder / "labels").iterdir()), back, LabelSchema(TINY_LABELS))


def test_nifti_files_lie_on_their_scans_and_the_table_has_their_volumes(
    tmp_path: Path, cases: dict[str, LabelledScan]
) -> None:
    folder = tmp_path / "nifti"
    _export(folder, "nifti", list(cases.values()), with_scans=True)
    assert json.loads((folder / "structures.json").read_text(encoding="utf-8")) == {
        "background": 0,
        "ball": 1,
        "rod": 2,
    }
    for row in _table(folder):
        case = cases[row["scan"]]
        scan = read_volume(folder / row["file"].replace("labels/", "scans/"))
        np.testing.assert_array_equal(scan.array, case.scan.array)
        back = read_label(folder / row["file"], scan, LabelSchema(TINY_LABELS))
        np.testing.assert_array_equal(back, case.label)
        if case.planes is None:
            assert float(row["ball ml"]) == pytest.approx((case.label == 1).sum() * 0.027, abs=1e-4)
    rows = {row["scan"]: row for row in _table(folder)}
    assert (rows["zahn, Links"]["label"], rows["zahn, Links"]["estimated_dice"]) == ("pseudo-label", "0.8123")
    assert (rows["case_1"]["label"], rows["case_1"]["saved"]) == ("final", "2023-11-14T22:13:20Z")
    sparse = rows["sub-02_ses-1_T1w"]
    assert (sparse["annotated"], sparse["ball ml"], sparse["by"]) == ("planes", "", "Dr. Ä")


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
def test_dicom_objects_of_dicom_scans(tmp_path: Path, cases: dict[str, LabelledScan], form: str) -> None:
    outcome = _export(tmp_path / form, form, list(cases.values()))
    assert outcome.written == ["case_1"]
    assert all("is no DICOM" in reason for reason in outcome.refused.values())
    assert set(outcome.refused) == set(NAMES[1:])
    found, case = pydicom.dcmread(tmp_path / form / "case_1.dcm"), cases["case_1"]
    if form == "seg":
        label = read_seg(found, case.scan)
    else:
        rois = RtStruct.of(found)
        label = np.zeros(case.label.shape, np.uint8)
        for roi in rois.rois:
            label[read_rtstruct(rois, case.scan, roi.number)] = roi.number
    np.testing.assert_array_equal(label, case.label)
    assert (found.InstanceCreationDate, found.file_meta.MediaStorageSOPInstanceUID) == (
        "20231114",
        found.SOPInstanceUID,
    )


# --- the folder -------------------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Ends an export where a kill would."""


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_killed_export_goes_on_and_ends_with_the_same_files(
    tmp_path: Path, cases: dict[str, LabelledScan], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = _place(tmp_path / "whole", form), _place(tmp_path / "cut", form)
    wanted = list(cases.values())
    expected = _export(whole, form, wanted)

    def kill(done: int, name: str) -> None:
        if done == 2:
            raise KilledError

    with pytest.raises(KilledError):
        _export(cut, form, wanted, kill)
    # And once in the middle of a case: its files are half there, and not noted as done.
    chosen = export_format(form, ExportOptions(NAMES, TINY_LABELS))
    monkeypatch.setattr(type(chosen), "write", _half(type(chosen).write))
    with pytest.raises(KilledError):
        _export(cut, form, wanted[:1], stamps=lambda name: 2)
    monkeypatch.undo()
    (cut / ".part-000000-1-x.nii.gz").write_bytes(b"half")
    os.utime(cut / ".part-000000-1-x.nii.gz", (1, 1))
    outcome = _export(cut, form, wanted)
    assert _files(cut) == _files(whole)
    assert set(outcome.written) | set(outcome.kept) == set(expected.written)


def _half(write: Callable[..., None]) -> Callable[..., None]:
    def half(self: object, folder: Path, case: LabelledScan) -> None:
        write(self, folder, case)
        raise KilledError

    return half


def test_repeating_writes_what_has_changed_and_takes_away_what_is_gone(
    tmp_path: Path, cases: dict[str, LabelledScan]
) -> None:
    folder, wanted = tmp_path / "nifti", list(cases.values())
    _export(folder, "nifti", wanted)
    before = {name: (folder / name).stat().st_mtime_ns for name in _files(folder)}
    again = _export(folder, "nifti", wanted)
    assert (again.written, again.kept) == ([], list(NAMES))
    assert all((folder / name).stat().st_mtime_ns == before[name] for name in before if name.startswith("labels/"))
    outcome = _export(folder, "nifti", wanted[:2], stamps=lambda name: 2 if name == "case_1" else 1)
    assert (outcome.written, outcome.kept, len(outcome.removed)) == (["case_1"], [NAMES[1]], 2)
    assert len(list((folder / "labels").iterdir())) == len(_table(folder)) == 2
    (folder / "labels" / "case_1.nii.gz").unlink()
    assert _export(folder, "nifti", wanted[:2], stamps=lambda name: 2 if name == "case_1" else 1).written == ["case_1"]


def test_folders_with_other_files_are_left_alone(tmp_path: Path, cases: dict[str, LabelledScan]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else than an export"):
        _export(tmp_path / "full", "nifti", list(cases.values()))
    assert [each.name for each in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    _export(tmp_path / "out", "nifti", list(cases.values())[:1])
    with pytest.raises(UserError, match="holds an export in the format 'nifti'"):
        _export(tmp_path / "out", "bids", list(cases.values())[:1])
    (tmp_path / "out" / "mine.txt").write_text("mine")
    _export(tmp_path / "out", "nifti", list(cases.values())[1:2])
    assert (tmp_path / "out" / "mine.txt").is_file(), "what is not ours stays"


def test_two_exports_to_one_folder_do_not_mix(tmp_path: Path, cases: dict[str, LabelledScan]) -> None:
    _export(tmp_path / "out", "nifti", list(cases.values())[:1])
    with FileLock(str(tmp_path / "out" / ".semisam-export" / "lock")), pytest.raises(UserError, match="is running"):
        _export(tmp_path / "out", "nifti", list(cases.values()))


def test_a_forged_note_deletes_nothing_elsewhere(tmp_path: Path, cases: dict[str, LabelledScan]) -> None:
    folder = tmp_path / "out"
    _export(folder, "nifti", list(cases.values())[:1])
    for n, name in enumerate(("../mine.txt", str(tmp_path / "mine.txt"))):
        (tmp_path / "mine.txt").write_text("mine")
        forged = json.dumps({"stamp": "", "files": [name], "row": {}})
        (folder / ".semisam-export" / "cases" / f"forged{n}.json").write_text(forged)
    assert len(_export(folder, "nifti", list(cases.values())[:1]).removed) == 2
    assert (tmp_path / "mine.txt").is_file()


def test_when_nothing_can_be_exported_the_reason_is_said(tmp_path: Path, cases: dict[str, LabelledScan]) -> None:
    with pytest.raises(UserError, match=r"Nothing was exported\. zahn, Links: The scan is no DICOM"):
        _export(tmp_path / "seg", "seg", [cases["zahn, Links"]])
    with pytest.raises(UserError, match="There is no scan with a label"):
        _export(tmp_path / "seg", "seg", [])
