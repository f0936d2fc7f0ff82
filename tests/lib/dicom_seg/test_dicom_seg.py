"""Labels as DICOM SEG, written and read. Series of many kinds are in test_dicom_series, servers in tests/clients."""

from __future__ import annotations

import zlib
from io import BytesIO
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicomfiles import Labelled, write_series
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.dicom_seg import Origin, SegHeader, Segment, read_seg, write_seg
from lib.dicom_seg.decode import DEFLATED_FRAMES, frames_of
from lib.formats.volumes import read_volume
from picturefiles import save_dicom_image, tiny_picture
from tiny_study import tiny_scan

PERSON = Origin("by hand", None, person=True)
SEGMENTS = (Segment(1, "liver", (221, 130, 101)), Segment(2, "spleen", (157, 108, 162)), Segment(3, "aorta", (1, 2, 3)))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, np.ndarray, Path, str]:
    scan = Labelled(*tiny_scan(1)).turned((20, -15, 30))
    folder = tmp_path_factory.mktemp("dicom") / "series"
    uid = write_series(folder, scan)[1]
    return Volume(scan.array.astype(np.float32), scan.affine), np.where(scan.label == 2, 3, scan.label), folder, uid


def test_numbers_close_up_but_names_stay(series: tuple[Volume, np.ndarray, Path, str]) -> None:
    scan, label, folder, uid = series
    seg = write_seg(label, scan.affine, folder, SEGMENTS, PERSON)
    header = SegHeader.of(seg)
    assert header.names == (("liver", 1), ("aorta", 2))
    assert header.scan == uid
    assert len(header.created) > 14
    np.testing.assert_array_equal(read_seg(seg, scan), np.where(label == 3, 2, label))
    np.testing.assert_array_equal(read_seg(seg, scan, {1: 1, 2: 3}), label)
    np.testing.assert_array_equal(read_seg(seg, scan, {2: 9}), np.where(label == 3, 9, 0))


@pytest.mark.slow
def test_it_is_a_whole_file_however_it_is_written(series: tuple[Volume, np.ndarray, Path, str], tmp_path: Path) -> None:
    """Viewers in a browser read no file whose header does not give its length (PS3.10, 7.1)."""
    scan, label, folder, _ = series
    image = save_dicom_image(tmp_path / "flat.dcm", tiny_picture(1)[0], "US")
    flat = write_seg(np.ones(read_volume(image).shape, np.uint8), np.eye(4), image, SEGMENTS, PERSON)
    for seg in (write_seg(label, scan.affine, folder, SEGMENTS, PERSON), flat):
        file = BytesIO()
        pydicom.dcmwrite(file, seg)  # as dicomweb-client does
        file.seek(0)
        meta = pydicom.dcmread(file).file_meta
        assert meta.FileMetaInformationGroupLength > 100
        assert meta.FileMetaInformationVersion == b"\0\1"
        assert meta.ImplementationClassUID


def test_grid_of_the_scan_may_be_turned(series: tuple[Volume, np.ndarray, Path, str]) -> None:
    scan, label, folder, _ = series
    seg = write_seg(label, scan.affine, folder, SEGMENTS, PERSON)
    affine = scan.affine @ [[0, -1, 0, 31], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    # The voxel (i, j, k) of the turned grid is the voxel (31 - j, i, k) of the scan.
    turned = Volume(np.zeros((32, 36, 28), np.float32), affine)
    expected = np.zeros((32, 36, 28), np.uint8)
    for i, j, k in np.argwhere(label):
        if i <= 31:
            expected[j, 31 - i, k] = {1: 1, 3: 2}[int(label[i, j, k])]
    if (np.argwhere(label)[:, 0] > 31).any():
        with pytest.raises(UserError, match="beyond"):
            read_seg(seg, turned)
    else:
        np.testing.assert_array_equal(read_seg(seg, turned), expected)


def test_labels_that_cannot_be_a_seg(series: tuple[Volume, np.ndarray, Path, str]) -> None:
    scan, label, folder, _ = series
    for bad, segments in ((np.zeros_like(label), SEGMENTS), (label, SEGMENTS[:1])):
        with pytest.raises(UserError, match="at least one outlined structure") as caught:
            write_seg(bad, scan.affine, folder, segments, PERSON)
        assert caught.value.status == 422


def test_series_that_cannot_carry_one(series: tuple[Volume, np.ndarray, Path, str], tmp_path: Path) -> None:
    scan, label, _, _ = series
    (tmp_path / "not.dcm").write_bytes(b"no DICOM")
    with pytest.raises(UserError, match="No DICOM SEG can be made"):
        write_seg(label, scan.affine, tmp_path, SEGMENTS, PERSON)


def test_seg_of_another_grid_is_refused(series: tuple[Volume, np.ndarray, Path, str]) -> None:
    scan, label, folder, _ = series
    seg = write_seg(label, scan.affine, folder, SEGMENTS, PERSON)
    for change, part in (
        (np.diag([2.0, 1, 1, 1]), "another grid"),
        (np.array([[1, 0, 0, 200], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "beyond its scan"),
    ):
        with pytest.raises(UserError, match=part):
            read_seg(seg, Volume(scan.array, scan.affine @ change))


def test_pixels_that_cannot_be_read(series: tuple[Volume, np.ndarray, Path, str]) -> None:
    scan, label, folder, _ = series
    seg = write_seg(label, scan.affine, folder, SEGMENTS, PERSON)
    seg.PixelData = seg.PixelData[:10]
    with pytest.raises(UserError, match="cannot be decoded"):
        read_seg(seg, scan)
    seg.PixelData = b""
    del seg.PerFrameFunctionalGroupsSequence
    with pytest.raises(UserError):
        read_seg(seg, scan)


def test_header_of_metadata_without_anything() -> None:
    header = SegHeader.of(pydicom.Dataset())
    assert (header.uid, header.scan, header.names, header.created) == ("", "", (), "")


def test_flat_label_without_a_place(tmp_path: Path) -> None:
    pixels, drawn = tiny_picture(1)
    file = save_dicom_image(tmp_path / "image.dcm", pixels, "US")
    scan = read_volume(file)
    label = np.where(drawn == 2, 3, drawn).T[..., None].astype(np.uint8)  # value 2 is absent: 3 becomes segment 2
    seg = write_seg(label, scan.affine, file, SEGMENTS, PERSON)
    seg.save_as(tmp_path / "seg.dcm")
    again = pydicom.dcmread(tmp_path / "seg.dcm")
    assert "FrameOfReferenceUID" not in again
    assert SegHeader.of(again).names == (("liver", 1), ("aorta", 2))
    np.testing.assert_array_equal(read_seg(again, scan, {1: 1, 2: 3}), label)
    with pytest.raises(UserError, match="no single 2D image"):
        write_seg(label[:-1], scan.affine, file, SEGMENTS, PERSON)


def test_flat_label_keeps_the_place_of_its_image(tmp_path: Path) -> None:
    pixels, drawn = tiny_picture(2)
    file = save_dicom_image(tmp_path / "image.dcm", pixels[..., 0].astype(np.uint16), "XA")
    image = pydicom.dcmread(file)
    image.FrameOfReferenceUID = pydicom.uid.generate_uid()
    image.ImagePositionPatient, image.ImageOrientationPatient = [1, 2, 3], [1, 0, 0, 0, 1, 0]
    image.save_as(file)
    scan, label = read_volume(file), drawn.T[..., None]
    seg = write_seg(label, scan.affine, tmp_path, SEGMENTS, PERSON)
    assert seg.FrameOfReferenceUID == image.FrameOfReferenceUID
    shared = seg.SharedFunctionalGroupsSequence[0]
    assert shared.PlanePositionSequence[0].ImagePositionPatient == [1, 2, 3]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == image.PixelSpacing
    np.testing.assert_array_equal(read_seg(seg, scan), label)


@pytest.mark.parametrize(
    ("text", "said"),
    [("Outline (annotated: planes)", "planes"), ("ANNOTATED=All", "all"), ("my annotated scan", ""), ("", "")],
)
def test_what_is_annotated_is_read_from_the_description(text: str, said: str) -> None:
    seg = pydicom.Dataset()
    seg.SeriesDescription = text
    assert SegHeader.of(seg).annotated == said


@pytest.mark.parametrize("size", [(16, 24), (15, 23)], ids=["whole bytes", "part of a byte"])
@pytest.mark.parametrize("how", ["runs", "deflated"])
def test_compressions_of_single_bits(how: str, size: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    masks = random.random((3, *size)) < 0.1
    masks[1, 2:9] = True
    packed = [np.packbits(mask, bitorder="little").tobytes() for mask in masks]
    seg = pydicom.Dataset()
    seg.file_meta = pydicom.dataset.FileMetaDataset()
    seg.Rows, seg.Columns, seg.NumberOfFrames, seg.BitsAllocated = *size, len(masks), 1
    if how == "runs":
        header = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56)
        coded = [header + run_lengths(each) for each in packed]
        seg.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
    else:
        coded = [zlib.compress(each)[2:-4] for each in packed]
        seg.file_meta.TransferSyntaxUID = DEFLATED_FRAMES
    seg.PixelData = pydicom.encaps.encapsulate([each + bytes(len(each) % 2) for each in coded])
    np.testing.assert_array_equal(frames_of(seg), masks)
    seg.PixelData = seg.PixelData[:-60]
    with pytest.raises(UserError, match="cannot be decoded: it is damaged"):
        frames_of(seg)


def run_lengths(plain: bytes) -> bytes:
    """PS3.5, annex G.3.1: single bytes as they are, others as often as they are repeated."""
    coded = bytearray()
    for value, same in groupby(plain):
        left = len(list(same))
        while left:
            count = min(left, 128)
            coded += bytes([257 - count if count > 1 else 0, value])
            left -= count
    return bytes(coded)


def test_background_of_a_label_map_is_no_structure() -> None:
    seg = pydicom.Dataset()
    seg.SegmentSequence = [pydicom.Dataset() for _ in range(2)]
    for number, (entry, name) in enumerate(zip(seg.SegmentSequence, ("Background", "Liver"), strict=True)):
        entry.SegmentNumber, entry.SegmentLabel = number, name
    assert SegHeader.of(seg).names == (("Liver", 1),)
