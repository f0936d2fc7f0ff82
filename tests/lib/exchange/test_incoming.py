"""Labels of other programs: what they are called, which scan they belong to, and when they are refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import nrrd  # type: ignore[import-untyped]
import numpy as np
import pydicom
import pytest

from dicomfiles import Labelled, write_series
from dicomseries import Dataset
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.dicom_seg import Origin, Segment, write_seg
from lib.exchange import Candidate, ExportFolder, ExportOptions, LabelledScan, export_format
from lib.exchange.incoming import Incoming, StudyScans, TargetScan, find_labels
from lib.exchange.incoming.base import Belongs
from lib.exchange.rtstruct import write_rtstruct
from lib.formats.volumes import read_volume
from realdata import folder_of
from tiny_study import TINY_LABELS, save_nifti, tiny_scan

PERSON = Origin("semisam: label", None, person=True)
SEGMENTS = (Segment(1, "Ball", (255, 0, 0)), Segment(2, "rod", (0, 255, 0)))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "P 1"
    write_series(folder, Labelled(*tiny_scan(1)))
    return folder


@pytest.fixture
def target(series: Path) -> TargetScan:
    return TargetScan("P 1", read_volume(series), series)


def _only(path: Path) -> Incoming:
    found = find_labels([path])
    assert found.refused == {}
    (label,) = found.labels
    return label


def _label() -> np.ndarray:
    return tiny_scan(1)[1]


def _nrrd(
    path: Path, volume: Volume, label: np.ndarray, names: tuple[str, ...] = (), values: tuple[int, ...] = ()
) -> Path:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
    }
    for n, (name, value) in enumerate(zip(names, values, strict=True)):
        header |= {f"Segment{n}_Name": name, f"Segment{n}_LabelValue": str(value), f"Segment{n}_Layer": "0"}
    nrrd.write(str(path), label, header)
    return path


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_rtstruct_and_seg_give_the_voxels_back(series: Path, target: TargetScan, tmp_path: Path) -> None:
    rt = write_rtstruct(_label(), target.volume.affine, series, SEGMENTS, PERSON)
    seg = write_seg(_label(), target.volume.affine, series, SEGMENTS, PERSON)
    for name, dataset in (("rt.dcm", rt), ("seg without suffix", seg)):
        dataset.save_as(tmp_path / name, write_like_original=False)
        label = _only(tmp_path / name)
        assert label.names == ("Ball", "rod")
        assert label.belongs.series == (str(pydicom.dcmread(next(series.iterdir())).SeriesInstanceUID),)
        np.testing.assert_array_equal(label.read(target, {"Ball": 1, "rod": 2}).label, _label())
        np.testing.assert_array_equal(label.read(target, {"rod": 7}).label, (_label() == 2) * 7)


def test_segmentations_of_slicer_bring_their_names(target: TargetScan, tmp_path: Path) -> None:
    path = _nrrd(tmp_path / "P 1.seg.nrrd", target.volume, _label() * 3, ("Kugel", "Stab"), (3, 6))
    label = _only(path)
    assert (label.names, label.belongs.name, label.kind) == (("Kugel", "Stab"), "P 1", "segmentation of 3D Slicer")
    np.testing.assert_array_equal(label.read(target, {"Kugel": 2, "Stab": 1}).label, _swapped(_label()))


def _swapped(label: np.ndarray) -> np.ndarray:
    return np.array([0, 2, 1], np.uint8)[label]


def test_values_without_names_are_asked_for(target: TargetScan, tmp_path: Path) -> None:
    label = _only(save_nifti(tmp_path / "P 1.nii.gz", _label(), target.volume.affine))
    assert label.names == ("value 1", "value 2")
    np.testing.assert_array_equal(label.read(target, {"value 2": 1}).label, _label() == 2)


def test_an_nnunet_data_set_has_names_and_cases(target: TargetScan, tmp_path: Path) -> None:
    folder = tmp_path / "Dataset001_x"
    save_nifti(folder / "imagesTr" / "P1_0000.nii.gz", tiny_scan(1)[0], target.volume.affine)
    save_nifti(folder / "labelsTr" / "P1.nii.gz", _swapped(_label()), target.volume.affine)
    content = {"labels": {"background": 0, "rod": 1, "ball": 2}, "file_ending": ".nii.gz", "numTraining": 1}
    (folder / "dataset.json").write_text(json.dumps(content))
    label = _only(folder)
    assert (label.names, label.belongs.name, label.kind) == (("rod", "ball"), "P1", "nnU-Net case")
    np.testing.assert_array_equal(label.read(target, {"ball": 1, "rod": 2}).label, _label())
    content["labels"] = {"background": 0, "all": [1, 2], "ball": 2}
    (folder / "dataset.json").write_text(json.dumps(content))
    assert "regions of several values (all)" in find_labels([folder]).refused["labelsTr/P1.nii.gz"]


def test_ignored_voxels_may_leave_three_slices_and_nothing_else(target: TargetScan, tmp_path: Path) -> None:
    folder = tmp_path / "Dataset001_x"
    planes = np.zeros(_label().shape, bool)
    planes[12], planes[:, 15], planes[:, :, 14] = True, True, True
    save_nifti(
        folder / "labelsTr" / "a.nii.gz", np.where(planes, _label() == 1, 2).astype(np.uint8), target.volume.affine
    )
    planes[:, :, 15] = True
    save_nifti(
        folder / "labelsTr" / "b.nii.gz", np.where(planes, _label() == 1, 2).astype(np.uint8), target.volume.affine
    )
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "ball": 1, "ignore": 2}}))
    one, other = find_labels([folder]).labels
    taken = one.read(target, {"ball": 1})
    assert (taken.annotated, taken.label.max()) == ("planes", 1)
    with pytest.raises(UserError, match="are not three slices"):
        other.read(target, {"ball": 1})


@pytest.mark.parametrize("form", ["nnunet", "nifti", "bids", "seg", "rtstruct"])
def test_our_own_exports_come_back_but_for_pseudo_labels(
    form: str, series: Path, target: TargetScan, tmp_path: Path
) -> None:
    folder = tmp_path / ("Dataset501_Tiny" if form == "nnunet" else form)
    structures = tuple(Segment(n, name, (9, 9, 9)) for n, name in enumerate(TINY_LABELS, 1))
    guess = Origin("semisam: pseudo-label", "semisam", person=False)
    cases = [
        LabelledScan(name, target.volume, _label(), structures, origin, series=series)
        for name, origin in (("P 1", PERSON), ("P 2", guess))
    ]
    chosen = export_format(form, ExportOptions(("P 1", "P 2"), TINY_LABELS, with_scans=True))
    wanted = [Candidate(each.name, {}, lambda each=each: each) for each in cases]  # type: ignore[misc]
    ExportFolder(folder, chosen).export(wanted, lambda done, name: None)
    found = find_labels([folder])
    (label,) = found.labels
    assert [("pseudo-label of semisam" in reason) for reason in found.refused.values()] == [True]
    assert set(label.names) == ({"ball", "rod"})
    scans = StudyScans(["P 1", "P 2"], lambda name: series if name == "P 1" else None)
    assert scans.find(label.belongs) == "P 1"
    np.testing.assert_array_equal(label.read(target, {"ball": 1, "rod": 2}).label, _label())


def test_what_is_no_label_is_passed_over_or_refused(series: Path, target: TargetScan, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.nii.gz").write_bytes(b"x")
    (tmp_path / "broken.nii.gz").write_bytes(b"x")
    save_nifti(tmp_path / "scan.nii.gz", tiny_scan(1)[0], target.volume.affine)
    pydicom.dcmread(next(series.iterdir())).save_as(tmp_path / "slice.dcm")
    rt = write_rtstruct(_label(), target.volume.affine, series, SEGMENTS, PERSON)
    rt.ROIContourSequence[0].ContourSequence[0].ContourData = ["1.0", "2.0"]
    rt.save_as(tmp_path / "cut.dcm", write_like_original=False)
    found = find_labels([tmp_path])
    assert (found.labels, found.passed) == ([], 1)
    assert set(found.refused) == {"broken.nii.gz", "scan.nii.gz", "cut.dcm"}
    assert "more values than there can be structures" in found.refused["scan.nii.gz"]
    assert "the contours of 'Ball' cannot be read" in found.refused["cut.dcm"]
    with pytest.raises(UserError, match="no file or folder"):
        find_labels([tmp_path / "nowhere"])


def test_scans_and_labels_of_the_study_itself_are_not_taken(series: Path, target: TargetScan, tmp_path: Path) -> None:
    """RTSTRUCT beside the images of a scan are."""
    study = tmp_path / "study"
    save_nifti(study / "case_1.nii.gz", tiny_scan(1)[0], target.volume.affine)
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", _label(), target.volume.affine)
    (study / "P 1").mkdir()
    rt = write_rtstruct(_label(), target.volume.affine, series, SEGMENTS, PERSON)
    rt.save_as(study / "P 1" / "rt.dcm", write_like_original=False)
    assert [each.source for each in find_labels([study], study.resolve()).labels] == ["P 1/rt.dcm"]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_structures_that_overlap_are_refused_but_borders_may_touch(
    series: Path, target: TargetScan, tmp_path: Path
) -> None:
    one, other = np.zeros(_label().shape, np.uint8), np.zeros(_label().shape, np.uint8)
    one[4:14, 4:20, 5:15], other[14:24, 4:20, 5:15] = 1, 1
    for shift in (0, 1, 2):
        rt = write_rtstruct(one, target.volume.affine, series, SEGMENTS[:1], PERSON)
        beside = write_rtstruct(np.roll(other, -shift, 0), target.volume.affine, series, SEGMENTS[:1], PERSON)
        for name in ("StructureSetROISequence", "ROIContourSequence"):
            (item,) = beside[name].value
            setattr(item, "ROINumber" if name.startswith("Str") else "ReferencedROINumber", 2)
            rt[name].value.append(item)
        rt.StructureSetROISequence[1].ROIName = "other"
        rt.save_as(tmp_path / "rt.dcm", write_like_original=False)
        label = _only(tmp_path / "rt.dcm")
        if shift == 2:
            with pytest.raises(UserError, match="'Ball' and 'other' overlap in 320 voxels"):
                label.read(target, {"Ball": 1, "other": 2})
            np.testing.assert_array_equal(label.read(target, {"Ball": 1}).label, one)
            assert label.read(target, {"Ball": 1, "other": 1}).label.sum() == 18 * 160
            continue
        taken = label.read(target, {"Ball": 1, "other": 2})
        np.testing.assert_array_equal(taken.label, np.where(one == 1, 1, 2 * np.roll(other, -shift, 0)))
        assert [("share 160 voxels at their border" in note) for note in taken.notes] == [True] * shift


def test_labels_on_other_images_or_grids_are_refused(series: Path, target: TargetScan, tmp_path: Path) -> None:
    seg = write_seg(_label(), target.volume.affine, series, SEGMENTS, PERSON)
    seg.save_as(tmp_path / "seg.dcm", write_like_original=False)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for file in sorted(series.iterdir())[:-10]:
        (fewer / file.name).write_bytes(file.read_bytes())
    part = TargetScan("P 1", read_volume(fewer), fewer)
    with pytest.raises(UserError, match=r"image\(s\) that the scan does not have"):
        _only(tmp_path / "seg.dcm").read(part, {"Ball": 1})
    path = save_nifti(tmp_path / "x" / "P 1.nii.gz", _label(), target.volume.affine + np.diag([0, 0, 1.5, 0]))
    with pytest.raises(UserError, match="lies elsewhere"):
        _only(path).read(target, {"value 1": 1})


def test_empty_labels_count_only_when_they_say_what_was_looked_for(target: TargetScan, tmp_path: Path) -> None:
    nothing = np.zeros(_label().shape, np.uint8)
    with pytest.raises(UserError, match="names no structure that was looked for"):
        _only(save_nifti(tmp_path / "P 1.nii.gz", nothing, target.volume.affine)).read(target, {"value 1": 1})
    folder = tmp_path / "Dataset001_x"
    save_nifti(folder / "labelsTr" / "P1.nii.gz", nothing, target.volume.affine)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "ball": 1}}))
    assert not _only(folder).read(target, {"ball": 1}).label.any()
    save_nifti(folder / "labelsTr" / "P1.nii.gz", nothing + 1, target.volume.affine)
    with pytest.raises(UserError, match="none of the study's structures"):
        _only(folder).read(target, {})


# --- which scan -------------------------------------------------------------------------------------------------------


def test_a_label_goes_to_the_series_that_it_names(series: Path) -> None:
    uid = str(pydicom.dcmread(next(series.iterdir())).SeriesInstanceUID)
    images = frozenset(str(pydicom.dcmread(file).SOPInstanceUID) for file in series.iterdir())
    scans = StudyScans(["P 1", "case_2", "Ä"], lambda name: series if name == "P 1" else None)
    assert scans.find(Belongs((uid,), frozenset(), "case_2")) == "P 1", "what it says goes before what it is called"
    assert scans.find(Belongs((), images, "x")) == "P 1"
    with pytest.raises(UserError, match=r"on the series 1\.2\.3, which the study does not have"):
        scans.find(Belongs(("1.2.3",), frozenset(["4.5"]), "case_2"))
    with pytest.raises(UserError, match="does not say which series"):
        scans.find(Belongs((), frozenset(["4.5"]), "case_2"))
    assert scans.find(Belongs(name="case_2")) == "case_2"
    with pytest.raises(UserError, match="no scan 'case_3'"):
        scans.find(Belongs(name="case_3"))


def test_files_may_be_called_as_exports_and_nnunet_call_them() -> None:
    scans = StudyScans(["Ä", "b_0000"], lambda name: None)
    assert scans.find(Belongs(name="scan-2fe5ca1c")) == "Ä"
    assert scans.find(Belongs(name="b")) == "b_0000"
    assert scans.find(Belongs(("1.2.3",), name="Ä")) == "Ä", "no scan of this study is DICOM"


# --- objects of other programs ----------------------------------------------------------------------------------------

READ, OVERLAP, AWAY, FOREIGN = "read", "overlap in", "image(s) that the scan does not have", "does not have."
REAL = {
    "dcmjs/QIICR_Test3/tumor_User1_Manual_Trial1.dcm": (("Neoplasm, Primary", "Neoplasm, Secondary"), "", FOREIGN),
    "dcmqi/liver.dcm": (("Liver",), "dcmqi/ct-3slice", READ),
    "dcmqi/partial_overlaps.dcm": (
        ("GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"),
        "dcmqi/ct-3slice",
        OVERLAP,
    ),
    "dcmqi/sparse-labelmap-noppv.dcm": (("Liver",), "dcmqi/24x38x3/image", READ),
    "dcmqi/sparse-labelmap-ppv5.dcm": (("Liver",), "dcmqi/24x38x3/image", READ),
    "dcmqi/sr-example/seg.dcm": (("Neoplasm, Primary",), "", FOREIGN),
    "dicompyler-core/example_data/rtss.dcm": (
        ("BODY", "Areola", "Borders", "Breast", "Heart", "Lt Lung", "Nodes", "Scar", "Tumor Bed", "Tumor Bed Block"),
        "",
        FOREIGN,
    ),
    "highdicom/seg_image_ct_binary.dcm": (("first segment",), "CT2", READ),
    "highdicom/seg_image_ct_binary_fractional.dcm": (("first segment",), "CT2", READ),
    "highdicom/seg_image_ct_binary_overlap.dcm": (("first segment", "second segment"), "CT2", AWAY),
    "highdicom/seg_image_ct_binary_single_frame.dcm": (("first segment",), "", FOREIGN),
    "highdicom/seg_image_ct_true_fractional.dcm": (("first segment",), "CT2", READ),
    "pydicom-data/liver_deflate.dcm": (("Liver",), "dcmqi/ct-3slice", READ),
    "pydicom-data/liver_j2k.dcm": (("Liver",), "dcmqi/ct-3slice", READ),
    "pydicom-data/liver_nonbyte_aligned_rle.dcm": (("Liver",), "dcmqi/ct-3slice", READ),
    "pydicom-data/liver_rle.dcm": (("Liver",), "dcmqi/ct-3slice", READ),
    "rt-utils/mock_data/invalid_reference_rt.dcm": (("ROI-1", "ROI-2", "ROI-3", "ROI-4"), "rt", AWAY),
    "rt-utils/mock_data/non_existent_reference_rt.dcm": (("ROI-1", "ROI-2", "ROI-3", "ROI-4"), "rt", AWAY),
    "rt-utils/mock_data/rt.dcm": (("ROI-1",), "rt", READ),
}
"""Each object's structures, the series that it belongs to (one image alone is no scan), and what becomes of it."""


@pytest.fixture(scope="module")
def real_scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The series that came along with the objects, or with pydicom."""
    data, top = folder_of("dicom"), tmp_path_factory.mktemp("real")
    tests = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests" / "77654033" / "CT2"
    sources = {"dcmqi/ct-3slice": "*.dcm", "dcmqi/24x38x3/image": "*.dcm", "rt-utils/mock_data": "ct_*.dcm"}
    found = {}
    for name, pattern in sources.items():
        folder = top / name.replace("/", "-")
        folder.mkdir()
        for file in (data / name).glob(pattern):
            (folder / file.name).write_bytes(file.read_bytes())
        found["rt" if name.startswith("rt") else name] = folder
    if tests.is_dir():
        found["CT2"] = top / "CT2"
        found["CT2"].mkdir()
        for file in tests.iterdir():
            if file.name != "17106":  # lies 20 cm beside the others
                (found["CT2"] / file.name).write_bytes(file.read_bytes())
    return found


@pytest.mark.realdata
@pytest.mark.parametrize("name", list(REAL))
def test_real_objects_are_read_or_refused_with_the_right_reason(name: str, real_scans: dict[str, Path]) -> None:
    names, series, result = REAL[name]
    if series == "CT2" and series not in real_scans:
        pytest.skip("pydicom's own test images are not installed")
    label = _only(folder_of("dicom") / name)
    assert label.names == names
    scans = StudyScans(list(real_scans), real_scans.__getitem__)
    if result == FOREIGN:
        with pytest.raises(UserError, match=FOREIGN):
            scans.find(label.belongs)
        return
    assert scans.find(label.belongs) == series
    folder = real_scans[series]
    target = TargetScan(series, read_volume(folder), folder)
    values = {each: n for n, each in enumerate(names, 1)}
    if result != READ:
        with pytest.raises(UserError) as error:
            label.read(target, values)
        assert result in str(error.value)
        return
    taken = label.read(target, values)
    assert set(np.unique(taken.label)) == {0, *values.values()}
    assert bool(taken.notes) == ("fractional" in name)


@pytest.mark.realdata
def test_all_files_in_the_folder_are_objects_or_images() -> None:
    found = find_labels([folder_of("dicom")])
    assert ({each.source for each in found.labels}, found.refused) == (set(REAL), {})
    assert len(found.labels) + found.passed == 37


@pytest.mark.realdata
def test_contours_of_a_planning_system_enclose_what_they_say(tmp_path: Path) -> None:
    """Its CT is there as one image only: contours are laid on a volume made at their slices."""
    file = folder_of("dicom") / "dicompyler-core" / "example_data"
    dataset, image = pydicom.dcmread(file / "rtss.dcm"), pydicom.dcmread(file / "ct.0.dcm")
    heights = {float(c.ContourData[2]) for r in dataset.ROIContourSequence for c in r.get("ContourSequence") or []}
    step = float(image.SliceThickness)
    first, last = min(heights), max(heights)
    affine = np.diag([-float(image.PixelSpacing[1]), -float(image.PixelSpacing[0]), step, 1.0])
    affine[:3, 3] = -float(image.ImagePositionPatient[0]), -float(image.ImagePositionPatient[1]), first
    volume = Volume(np.zeros((image.Columns, image.Rows, round((last - first) / step) + 1), np.float32), affine)
    label = _only(file / "rtss.dcm")
    for name in ("Heart", "Lt Lung", "Breast"):
        taken = label.read(TargetScan("x", volume), {name: 1})
        number = next(r.ROINumber for r in dataset.StructureSetROISequence if r.ROIName == name)
        contours = next(r.ContourSequence for r in dataset.ROIContourSequence if r.ReferencedROINumber == number)
        expected = sum(_area(c) for c in contours) / float(np.prod(image.PixelSpacing))
        assert taken.label.sum() == pytest.approx(expected, rel=0.02)
    assert nibabel.aff2axcodes(affine) == ("L", "P", "S")


def _area(contour: Dataset) -> float:
    x, y, _ = np.array(contour.ContourData, dtype=float).reshape(-1, 3).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
