"""DICOM series: what can be read rightly is, each voxel at its place; the rest is refused with image and reason."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

import dicomseries
from dicomseries import KINDS, TILTED, again, check_frames, copy_of, labelled, series, shown_in
from lib.core.errors import UserError
from lib.dicom_seg import Origin, Segment, read_seg, write_seg
from lib.dicom_series import find_stack
from lib.formats.volumes import read_volume

PERSON = Origin("by hand", None, person=True)
SEGMENTS = (Segment(1, "liver", (221, 130, 101)), Segment(2, "Milz 脾臓", (157, 108, 162)))
READ = [name for name, kind in KINDS.items() if not kind.refusal]
REFUSED = [name for name, kind in KINDS.items() if kind.refusal]


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_each_voxel_has_the_value_of_its_place(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    scan = read_volume(dicomseries.save(kind.make(), tmp_path / "series"))
    assert scan.shape == (dicomseries.COLUMNS, dicomseries.ROWS, kind.slices)
    assert scan.spacing == pytest.approx((1.5, 2.0, dicomseries.STEP), abs=2e-3)
    np.testing.assert_allclose(scan.array, shown_in(scan.shape, scan.affine), atol=0.6)
    if kind.note:
        (note,) = scan.notes
        assert re.search(kind.note, note), note
    else:
        assert scan.notes == ()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_rightly_is_refused_with_the_image(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=KINDS[name].refusal) as caught:
        read_volume(dicomseries.save(KINDS[name].make(), tmp_path / "series"))
    assert caught.value.status == 422
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", TILTED)
def test_shifted_slices_are_resampled_and_outlines_come_back_to_them(name: str, tmp_path: Path) -> None:
    folder = dicomseries.save(TILTED[name](), tmp_path / "series")
    scan = read_volume(folder)
    (note,) = scan.notes
    assert "resampled to an upright grid" in note
    assert ("15.0 degrees" in note) == ("gantry" in name)
    inside = scan.array > scan.array.min()
    expected = shown_in(scan.shape, scan.affine)
    off = np.abs(scan.array - expected)[inside]
    assert np.quantile(off, 0.9) < 0.6  # but for the edges, which are held
    assert off.max() < 12
    label = labelled(scan) * inside
    seg = write_seg(label, scan.affine, folder, SEGMENTS, PERSON)
    check_frames(seg, folder, atol=6)
    on_images = read_seg(seg, scan)
    again = write_seg(on_images, scan.affine, folder, SEGMENTS, PERSON)
    np.testing.assert_array_equal(again.pixel_array, seg.pixel_array)
    assert (on_images != label).mean() < 0.05  # only what lies beside the images


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_seg_lies_on_the_images(name: str, tmp_path: Path) -> None:
    folder = dicomseries.save(KINDS[name].make(), tmp_path / "series")
    scan = read_volume(folder)
    label = labelled(scan)
    seg = write_seg(label, scan.affine, folder, SEGMENTS, PERSON)
    seg.save_as(tmp_path / "seg.dcm")
    stored = pydicom.dcmread(tmp_path / "seg.dcm")
    check_frames(stored, folder, atol=1.5)
    np.testing.assert_array_equal(read_seg(stored, scan), label)
    assert [each.SegmentLabel for each in stored.SegmentSequence] == ["liver", "Milz 脾臓"]


@pytest.mark.slow
def test_highdicom_finds_the_frames_by_their_images(tmp_path: Path) -> None:
    import highdicom

    for name in ("oblique", "enhanced CT, frames shuffled"):
        folder = dicomseries.save(KINDS[name].make(), tmp_path / name)
        scan = read_volume(folder)
        label = labelled(scan)
        write_seg(label, scan.affine, folder, SEGMENTS, PERSON).save_as(tmp_path / "seg.dcm")
        seg = highdicom.seg.segread(tmp_path / "seg.dcm")
        stack = find_stack(folder)
        assert stack is not None
        found = [each.uid for each in stack.slices]
        for value in (1, 2):
            if stack.slices[0].frame is None:
                pixels = seg.get_pixels_by_source_instance(found, segment_numbers=[value])
            else:
                frames = [(each.frame or 0) + 1 for each in stack.slices]
                pixels = seg.get_pixels_by_source_frame(
                    found[0], frames, segment_numbers=[value], assert_missing_frames_are_empty=True
                )
            np.testing.assert_array_equal(pixels[..., 0].transpose(2, 1, 0), label == value)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_what_lies_beside_the_images(tmp_path: Path) -> None:
    images = series()
    folder = dicomseries.save(images, tmp_path / "series")
    scan = read_volume(folder)
    write_seg(labelled(scan), scan.affine, folder, SEGMENTS, PERSON).save_as(folder / "seg.dcm")
    (folder / "README").write_text("Viewer: start.exe", encoding="utf-8")
    shutil.copy(folder / "000-0.dcm", folder / "000-0 (copy).dcm")
    found = read_volume(folder)
    np.testing.assert_array_equal(found.array, scan.array)
    assert len(found.notes) == 1
    assert "1 SEG" in found.notes[0]


def test_several_series_in_a_folder(tmp_path: Path) -> None:
    dicomseries.save(series(), tmp_path / "series")
    others = series()
    for n, image in enumerate(others[:6]):
        image.save_as(tmp_path / "series" / f"other{n}.dcm")
    with pytest.raises(UserError, match=r"2 series.*with 12 images.*with 6 images.*folder of its own"):
        read_volume(tmp_path / "series")
    for n in range(1, 6):
        (tmp_path / "series" / f"other{n}.dcm").unlink()
    scan = read_volume(tmp_path / "series")  # a single slice is no volume
    assert scan.shape[2] == dicomseries.SLICES
    assert "with 1 image" in scan.notes[0]


def test_exported_folders_are_looked_into(tmp_path: Path) -> None:
    dicomseries.save(series()[:6], tmp_path / "disc" / "PAT" / "ST" / "SE")
    images = series()
    dicomseries.save(images[:6], tmp_path / "whole" / "PAT" / "ST" / "A")
    dicomseries.save(images[6:], tmp_path / "whole" / "PAT" / "ST" / "B")
    assert read_volume(tmp_path / "disc").shape[2] == 6
    assert read_volume(tmp_path / "whole").shape[2] == 12


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = dicomseries.save(series(), tmp_path / "series")
    last = folder / "003-11.dcm"
    whole = last.read_bytes()
    for content in (whole[:-100], whole[:400], b"", b"nothing" * 50):
        last.write_bytes(content)
        with pytest.raises(UserError, match=r"003-11\.dcm.*(damaged|cut short)"):
            read_volume(folder)
    again_and_other = series()
    again_and_other[5].SOPInstanceUID = again_and_other[4].SOPInstanceUID
    with pytest.raises(UserError, match=r"image 5 .*image 6 .*same SOPInstanceUID"):
        read_volume(dicomseries.save(again_and_other, tmp_path / "same"))


def test_size_is_looked_at_before_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = series()
    for image in images:
        image.Rows = image.Columns = 65535
    folder = dicomseries.save(images, tmp_path / "series")
    with pytest.raises(UserError) as caught:
        read_volume(folder)
    assert caught.value.status == 413


# --- DICOM SEG --------------------------------------------------------------------------------------------------------


def test_forbidden_uid_is_named(tmp_path: Path) -> None:
    for name, value in (("FrameOfReferenceUID", "1." + "2" * 64), ("StudyInstanceUID", "1.2.x")):
        images = series()
        for image in images:
            image[name].value = value
        folder = dicomseries.save(images, tmp_path / name)
        scan = read_volume(folder)
        with pytest.raises(
            UserError, match=f"the {name} of its images has 66|the {name} of its images holds"
        ) as caught:
            write_seg(labelled(scan), scan.affine, folder, SEGMENTS, PERSON)
        assert caught.value.status == 422


def test_series_without_a_frame_of_reference(tmp_path: Path) -> None:
    images = series()
    for image in images:
        del image.FrameOfReferenceUID
    folder = dicomseries.save(images, tmp_path / "series")
    scan = read_volume(folder)
    one, two = (write_seg(labelled(scan), scan.affine, folder, SEGMENTS, PERSON) for _ in range(2))
    assert one.FrameOfReferenceUID == two.FrameOfReferenceUID
    check_frames(one, folder, atol=1.5)


def test_label_of_an_older_scan_is_no_seg(tmp_path: Path) -> None:
    folder = dicomseries.save(series(), tmp_path / "series")
    scan = read_volume(folder)
    for label, affine in (
        (labelled(scan)[..., 1:], scan.affine),
        (labelled(scan), scan.affine @ np.diag([1, 1, 1.2, 1])),
    ):
        with pytest.raises(UserError, match="do not lie on the pixels of the series' 12 images"):
            write_seg(label, affine, folder, SEGMENTS, PERSON)


def test_second_copy_of_an_image_that_differs_by_its_rescaling(tmp_path: Path) -> None:
    images = series()
    other = again(images[4:5], brighter=30)[0]
    with pytest.raises(UserError, match="several different images"):
        read_volume(dicomseries.save([*images, other], tmp_path / "a"))
    same = copy_of(images[4])
    assert read_volume(dicomseries.save([*images, same], tmp_path / "b")).shape[2] == dicomseries.SLICES
