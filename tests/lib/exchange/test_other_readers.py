"""What is exported as DICOM, read by other people's programs: highdicom and rt-utils."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from dicomfiles import Labelled, write_series
from lib.dicom_seg import Origin, Segment, write_seg
from lib.exchange.rtstruct import write_rtstruct
from lib.formats.volumes import read_volume
from tiny_study import tiny_scan

SEGMENTS = (Segment(1, "ball", (255, 0, 0)), Segment(2, "rod", (0, 255, 0)))
PERSON = Origin("drawn by hand", None, person=True)
LEAST_DICE = 0.98


def _square(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and affine of a patient, with as many rows as columns: rt-utils takes one for the other."""
    image, label, affine = tiny_scan(number)
    return image[2:34], label[2:34], affine


@pytest.fixture
def series(tmp_path: Path) -> Path:
    image, label, affine = _square(3)
    write_series(tmp_path / "P1", Labelled(image, label, affine), patient="P1")
    return tmp_path / "P1"


def _label(series: Path) -> tuple[np.ndarray, np.ndarray]:
    """The label on the series' grid, and its affine."""
    return _square(3)[1], read_volume(series).affine


def _images(series: Path) -> dict[str, pydicom.Dataset]:
    found = [pydicom.dcmread(file) for file in sorted(series.iterdir())]
    return {each.SOPInstanceUID: each for each in found}


def test_highdicom_finds_each_frame_of_a_seg_on_its_slice(series: Path, tmp_path: Path) -> None:
    label, affine = _label(series)
    write_seg(label, affine, series, SEGMENTS, PERSON).save_as(tmp_path / "seg.dcm", write_like_original=False)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == ["ball", "rod"]
    images = _images(series)
    ordered = sorted(images.values(), key=lambda image: image.ImagePositionPatient[2])
    uids = [image.SOPInstanceUID for image in ordered]
    for number in seg.segment_numbers:
        pixels = seg.get_pixels_by_source_instance(
            uids,
            segment_numbers=[number],
            assert_missing_frames_are_empty=True,
            ignore_spatial_locations=True,
        )
        # A row of pixels runs along the first voxel axis.
        assert np.array_equal(pixels[..., 0].transpose(2, 1, 0) > 0, label == number)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(position, images[source.ReferencedSOPInstanceUID].ImagePositionPatient, atol=1e-3)


def test_each_contour_lies_on_the_image_that_it_names(series: Path) -> None:
    label, affine = _label(series)
    structures = write_rtstruct(label, affine, series, SEGMENTS, PERSON)
    images = _images(series)
    for roi in structures.ROIContourSequence:
        assert len(roi.ContourSequence) > 1
        for contour in roi.ContourSequence:
            (named,) = contour.ContourImageSequence
            image = images[named.ReferencedSOPInstanceUID]
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) - image.ImagePositionPatient
            row, column = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
            assert np.abs(points @ np.cross(row, column)).max() < 1e-2
            assert (points @ row).min() > -image.PixelSpacing[1]
            assert (points @ row).max() < image.Columns * image.PixelSpacing[1]
            assert (points @ column).max() < image.Rows * image.PixelSpacing[0]


@pytest.mark.skipif(not all(map(find_spec, ("rt_utils", "cv2"))), reason="rt-utils is not installed")
def test_rt_utils_reads_the_same_structures(series: Path, tmp_path: Path) -> None:
    from rt_utils import RTStructBuilder  # type: ignore[import-not-found, import-untyped, unused-ignore]

    label, affine = _label(series)
    label = label.copy()
    label[9:11, 14:16] = 0
    file = tmp_path / "structures.dcm"
    write_rtstruct(label, affine, series, SEGMENTS, PERSON).save_as(file, write_like_original=False)
    read = RTStructBuilder.create_from(dicom_series_path=str(series), rt_struct_path=str(file))
    assert read.get_roi_names() == ["ball", "rod"]
    for segment in SEGMENTS:
        mask = read.get_roi_mask_by_name(segment.text)
        assert _dice(mask, (label == segment.value).transpose(1, 0, 2)) >= LEAST_DICE


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))
