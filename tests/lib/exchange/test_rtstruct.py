"""Labels as RTSTRUCT: contours on the slices of the series, holes, islands, tilted scans; read back voxel by voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter

from dicomfiles import Labelled, write_series
from dicomseries import Dataset, again, enhanced, save, series, set_all
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.dicom_seg import Origin, Segment
from lib.dicom_series import find_stack
from lib.exchange.rtstruct import RtStruct, read_rtstruct, write_rtstruct
from lib.exchange.rtstruct.contours import contours_of
from lib.exchange.rtstruct.filling import filled
from lib.exchange.rtstruct.read import check_references
from lib.formats.volumes import read_volume
from picturefiles import save_dicom_image, tiny_picture
from tiny_study import tiny_scan

PERSON = Origin("semisam: label", None, person=True)
SEGMENTS = (Segment(1, "liver", (221, 130, 101)), Segment(2, "Milz (links)", (1, 2, 3)), Segment(3, "aorta", (9, 9, 9)))


def _rings() -> np.ndarray:
    """A ring with an island in its hole, which has a hole itself; two holes beside each other; single pixels."""
    y, x = np.mgrid[:40, :48]
    r = np.hypot(y - 15, x - 15)
    mask = ((r < 13) & (r > 9)) | ((r < 6) & (r > 2))
    mask[28:38, 4:30] = True
    mask[30:33, 6:9] = mask[30:33, 12:20] = mask[35, 22] = False
    mask[2, 40] = mask[3, 41] = mask[10:20, 44] = True
    mask[0, 30:] = mask[-1, 30:] = mask[:, -1] = True
    return mask


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, np.ndarray, Path]:
    """A scan that lies askew, with holes in its structures."""
    turned = Labelled(*tiny_scan(1)).turned((20, -15, 30))
    folder = tmp_path_factory.mktemp("dicom") / "series"
    write_series(folder, turned)
    label = np.where(turned.label == 2, 3, turned.label)
    label[11:14, 14:17, 10:20] = 0
    return read_volume(folder), label.astype(np.uint8), folder


def _read(dataset: pydicom.Dataset, scan: Volume, values: dict[str, int], folder: Path | None = None) -> np.ndarray:
    found = RtStruct.of(dataset)
    label = np.zeros(scan.shape, np.uint8)
    for roi in found.rois:
        stack = None if folder is None else find_stack(folder)
        label[read_rtstruct(found, scan, roi.number, stack)] = values[roi.name]
    return label


VALUES = {each.name: each.value for each in SEGMENTS}


@pytest.mark.parametrize("seed", range(12))
def test_what_a_contour_holds_is_what_it_was_drawn_around(seed: int) -> None:
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.random((37, 41)), 2)
    mask = _rings() if seed == 0 else smooth > np.median(smooth) if seed % 2 else random.random((23, 19)) < 0.6
    whole = np.zeros_like(mask)
    contours = contours_of(mask)
    for contour in contours:
        assert len(contour) >= 3
        part = filled(contour, (mask.shape[0], mask.shape[1]))
        assert not (whole & part).any(), "parts do not overlap: exclusive or, and union, are the same"
        whole |= part
    np.testing.assert_array_equal(whole, mask)


def test_straight_edges_need_few_points() -> None:
    mask = np.zeros((50, 50), bool)
    mask[5:45, 5:45] = True
    assert len(contours_of(mask)[0]) == 8  # its corners are cut


def test_contours_through_the_centres_of_pixels_hold_these_pixels() -> None:
    """As OpenCV draws them, and most programs that make RTSTRUCT with it."""
    square = np.array([[3, 4], [10, 4], [10, 8], [3, 8]], dtype=float)
    mask = filled(square + 0.004, (12, 14))
    assert mask[4:9, 3:11].all()
    assert mask.sum() == 5 * 8


def test_reading_back_gives_the_same_voxels(scan: tuple[Volume, np.ndarray, Path], tmp_path: Path) -> None:
    volume, label, folder = scan
    write_rtstruct(label, volume.affine, folder, SEGMENTS, PERSON).save_as(
        tmp_path / "rt.dcm", write_like_original=False
    )
    found = pydicom.dcmread(tmp_path / "rt.dcm")
    np.testing.assert_array_equal(_read(found, volume, VALUES), label)
    assert [each.ROIName for each in found.StructureSetROISequence] == ["liver", "aorta"]
    assert [list(each.ROIDisplayColor) for each in found.ROIContourSequence] == [[221, 130, 101], [9, 9, 9]]
    assert {each.ROIGenerationAlgorithm for each in found.StructureSetROISequence} == {"MANUAL"}


def test_contours_refer_to_the_images_on_which_they_lie(scan: tuple[Volume, np.ndarray, Path]) -> None:
    volume, label, folder = scan
    images = {(d := pydicom.dcmread(file)).SOPInstanceUID: d for file in folder.iterdir()}
    found = write_rtstruct(label, volume.affine, folder, SEGMENTS, PERSON)
    first = next(iter(images.values()))
    (frame,) = found.ReferencedFrameOfReferenceSequence
    (of_series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert of_series.SeriesInstanceUID == first.SeriesInstanceUID
    assert {each.ReferencedSOPInstanceUID for each in of_series.ContourImageSequence} == set(images)
    assert (found.StudyInstanceUID, found.PatientID) == (first.StudyInstanceUID, first.PatientID)
    for roi in found.ROIContourSequence:
        for contour in roi.ContourSequence:
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            axes = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            off = (points - np.array(image.ImagePositionPatient, dtype=float)) @ np.cross(*axes)
            assert np.abs(off).max() < 1e-3
    everything = frozenset(images)
    check_references(RtStruct.of(found), (1, 2), everything, "1.2.3")  # images go before the frame
    one = found.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID
    with pytest.raises(UserError, match=r"refer to 1 image\(s\) that the scan does not have"):
        check_references(RtStruct.of(found), (1, 2), everything - {one}, "")
    for roi in found.ROIContourSequence:
        for contour in roi.ContourSequence:
            del contour.ContourImageSequence
    check_references(RtStruct.of(found), (1, 2), everything, str(first.FrameOfReferenceUID))
    with pytest.raises(UserError, match="another frame of reference"):
        check_references(RtStruct.of(found), (1, 2), everything, "1.2.3")


@pytest.mark.parametrize("kind", ["tilted", "frames", "no frame of reference"])
def test_series_of_other_kinds(kind: str, tmp_path: Path) -> None:
    images = series()
    if kind == "tilted":
        for n, image in enumerate(images):
            image.ImagePositionPatient = [
                p + d for p, d in zip(image.ImagePositionPatient, (0, 0.6 * n, 0), strict=True)
            ]
    elif kind == "frames":
        images = enhanced(images)
    else:
        images = set_all(images, FrameOfReferenceUID="")
    folder = save(images, tmp_path / "series")
    volume = read_volume(folder)
    label = np.zeros(volume.shape, np.uint8)
    label[6:15, 8:14, 2:9], label[8:10, 9:12, 3:8] = 1, 0
    found = write_rtstruct(label, volume.affine, folder, SEGMENTS, PERSON)
    assert found.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    if kind == "frames":
        first = found.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0]
        assert first.ReferencedFrameNumber == 3
    np.testing.assert_array_equal(_read(found, volume, VALUES, folder), label)


def test_long_contours_are_written_whole(tmp_path: Path) -> None:
    """In explicit VR, nothing beyond 64 KiB could be."""
    holes = np.random.default_rng(0).random((120, 110, 3)) < 0.25
    label = np.zeros(holes.shape, np.uint8)
    label[5:115, 5:105, 1] = 1
    label[holes] = 0
    array = np.arange(label.size).reshape(label.shape).astype(np.int16)
    write_series(tmp_path / "series", Labelled(array, label, np.diag([-0.7, -0.7, 2, 1])))
    volume = read_volume(tmp_path / "series")
    found = write_rtstruct(label, volume.affine, tmp_path / "series", SEGMENTS, PERSON)
    found.save_as(tmp_path / "rt.dcm", write_like_original=False)
    longest = max(len(each.ContourData) for each in found.ROIContourSequence[0].ContourSequence)
    assert longest * 8 > 2**16
    np.testing.assert_array_equal(_read(pydicom.dcmread(tmp_path / "rt.dcm"), volume, VALUES), label)


def test_names_in_other_scripts(scan: tuple[Volume, np.ndarray, Path], tmp_path: Path) -> None:
    volume, label, folder = scan
    named = (Segment(1, "肝臓", (1, 1, 1)), Segment(3, "Aорта", (2, 2, 2)))
    write_rtstruct(label, volume.affine, folder, named, PERSON).save_as(tmp_path / "rt.dcm", write_like_original=False)
    assert [each.name for each in RtStruct.of(pydicom.dcmread(tmp_path / "rt.dcm")).rois] == ["肝臓", "Aорта"]


def test_labels_and_series_that_cannot_be_one(scan: tuple[Volume, np.ndarray, Path], tmp_path: Path) -> None:
    volume, label, folder = scan
    image = save_dicom_image(tmp_path / "flat.dcm", tiny_picture(1)[0], "US")
    with pytest.raises(UserError, match="no place in the patient"):
        write_rtstruct(np.ones(read_volume(image).shape, np.uint8), np.eye(4), image, SEGMENTS, PERSON)
    with pytest.raises(UserError, match="at least one outlined structure"):
        write_rtstruct(np.zeros_like(label), volume.affine, folder, SEGMENTS, PERSON)
    with pytest.raises(UserError, match="does not lie on the pixels"):
        write_rtstruct(label[1:], volume.affine, folder, SEGMENTS, PERSON)
    other = save(again(series(), brighter=1)[:1], tmp_path / "single")
    with pytest.raises(UserError, match="No RTSTRUCT can be made for this series"):
        write_rtstruct(label, volume.affine, other, SEGMENTS, PERSON)


def _changed(scan: tuple[Volume, np.ndarray, Path]) -> pydicom.Dataset:
    return write_rtstruct(scan[1], scan[0].affine, scan[2], SEGMENTS[:1] + SEGMENTS[2:], PERSON)


def _moved(dataset: pydicom.Dataset, by: np.ndarray) -> None:
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) + by
        contour.ContourData = [f"{v:.4f}" for v in points.ravel()]


def test_contours_that_do_not_lie_on_the_slices_are_refused(scan: tuple[Volume, np.ndarray, Path]) -> None:
    volume = scan[0]
    to_lps = np.array([-1, -1, 1])
    step = volume.affine[:3, 2] * to_lps
    for by, text in ((0.45 * step, "between the scan's slices"), (40 * step, "beyond the scan's 28 slices")):
        dataset = _changed(scan)
        _moved(dataset, by)
        with pytest.raises(UserError, match=text):
            read_rtstruct(RtStruct.of(dataset), volume, 1)
    dataset = _changed(scan)
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [f"{v:.3f}" for v in np.random.default_rng(0).uniform(-40, 40, 30)]
    with pytest.raises(UserError, match="do not lie in planes"):
        read_rtstruct(RtStruct.of(dataset), volume, 1)


def _square(left: int, right: int, low: int, high: int) -> np.ndarray:
    """The corners of a square of pixels, through their centres."""
    return np.array([[left, low], [right, low], [right, high], [left, high]], dtype=float)


@pytest.mark.parametrize(
    ("second", "kind", "count"),
    [
        (_square(5, 8, 5, 8), "CLOSED_PLANAR", 100 - 16),
        (_square(5, 8, 5, 8), "CLOSEDPLANAR_XOR", 100 - 16),
        (_square(14, 16, 2, 11), "CLOSED_PLANAR", 100 + 30),
        (_square(11, 15, 2, 11), "CLOSED_PLANAR", None),
        (_square(0, 20, 0, 20), "CLOSED_PLANAR", 441 - 100),
        (_square(8, 16, 2, 11), "CLOSED_PLANAR", None),
        (_square(8, 16, 2, 11), "CLOSEDPLANAR_XOR", 100 + 90 - 2 * 40),
    ],
)
def test_several_contours_on_one_slice(
    scan: tuple[Volume, np.ndarray, Path], second: np.ndarray, kind: str, count: int | None
) -> None:
    """Holes, parts beside each other, borders that touch; what crosses is refused unless the type says exclusive or."""
    dataset, volume = _changed(scan), scan[0]
    first = dataset.ROIContourSequence[0].ContourSequence[0]
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    items = []
    for pixels in (_square(2, 11, 2, 11), second):
        voxels = np.column_stack([pixels, np.full(len(pixels), 5.0), np.ones(len(pixels))])
        item = Dataset()
        item.ContourGeometricType, item.NumberOfContourPoints = kind, len(pixels)
        item.ContourImageSequence = first.ContourImageSequence
        item.ContourData = [f"{v:.4f}" for v in (voxels @ to_lps.T)[:, :3].ravel()]
        items.append(item)
    for order in (items, items[::-1]):
        dataset.ROIContourSequence[0].ContourSequence = order
        if count is None and second[0, 0] == 8:
            with pytest.raises(UserError, match="cross each other on slice 6"):
                read_rtstruct(RtStruct.of(dataset), volume, 1)
        else:
            mask = read_rtstruct(RtStruct.of(dataset), volume, 1)
            assert mask.sum() == (100 + 50 - 10 if count is None else count)
            assert mask[:, :, 5].sum() == mask.sum()


def test_points_and_gaps_are_refused(scan: tuple[Volume, np.ndarray, Path]) -> None:
    dataset = _changed(scan)
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        contour.ContourGeometricType = "POINT"
    with pytest.raises(UserError, match=r"'liver' has no closed contours \(POINT only\)"):
        read_rtstruct(RtStruct.of(dataset), scan[0], 1)
    dataset = _changed(scan)
    of_slice: dict[str, list[pydicom.Dataset]] = {}
    for contour in dataset.ROIContourSequence[1].ContourSequence:
        of_slice.setdefault(contour.ContourImageSequence[0].ReferencedSOPInstanceUID, []).append(contour)
    dataset.ROIContourSequence[1].ContourSequence = [c for each in list(of_slice.values())[::2] for c in each]
    with pytest.raises(UserError, match="lie 2 slices apart, with nothing on those between"):
        read_rtstruct(RtStruct.of(dataset), scan[0], 2)
