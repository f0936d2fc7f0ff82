"""Headers that contradict themselves, lie or promise too much: read as 3D Slicer does, or refused with the reason.

SimpleITK is what 3D Slicer reads files with.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.formats import limits
from lib.formats.label_files import read_label
from lib.formats.limits import set_limit
from lib.formats.volumes import read_volume, write_label
from viewer import in_viewer

SHAPE = (7, 6, 5)
SCHEMA = LabelSchema(("ball", "rod"))
PLACE = np.eye(4)
PLACE[:3, :3] = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]) * [0.7, 0.9, 2.0]
PLACE[:3, 3] = [-12.0, 30.5, 7.25]
MOVED = PLACE.copy()
MOVED[0, 3] += 12
SHEARED = PLACE.copy()
SHEARED[:3, 1] += 0.2 * SHEARED[:3, 0]


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.int16)


@pytest.fixture
def label() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 2:5, 1:4], label[4:6, 1:3, 2] = 1, 2
    return label


def nifti(
    path: Path,
    array: np.ndarray,
    codes: tuple[int, int] = (1, 1),
    sform: np.ndarray = PLACE,
    qform: np.ndarray = PLACE,
    **fields: Any,
) -> Path:
    """Write a file with any header; ``pixdim0`` and the like are single entries."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_qform(qform, 1)
    header.set_sform(sform, 1)
    header["sform_code"], header["qform_code"] = codes
    header["xyzt_units"], header["vox_offset"], header["magic"] = 2, 352, b"n+1"
    for name, value in fields.items():
        if name[-1].isdigit():
            header[name[:-1]][int(name[-1])] = value
        else:
            header[name] = value
    content = header.binaryblock + bytes(4) + array.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def lies_as_in_viewer(path: Path, folder: Path) -> Volume:
    """Reads a scan and checks that it, and what is written for it, lies where the viewer shows it."""
    scan = read_volume(path)
    shown, place = in_viewer(path)
    np.testing.assert_allclose(scan.affine, place, atol=1e-5 * np.abs(place).max())
    np.testing.assert_allclose(scan.array, shown, rtol=1e-6)
    for ending in (".nii.gz", ".nrrd"):
        write_label(folder / f"answer{ending}", np.ones(scan.shape, np.uint8), scan.affine)
        np.testing.assert_allclose(in_viewer(folder / f"answer{ending}")[1], place, atol=1e-5 * np.abs(place).max())
    return scan


@pytest.mark.parametrize("codes", [(s, q) for s in (-1, 0, 1, 2, 4, 5, 9) for q in (0, 1, 2, 9)])
def test_of_two_places_in_a_header_the_viewers_is_taken(
    tmp_path: Path, array: np.ndarray, codes: tuple[int, int]
) -> None:
    scan = lies_as_in_viewer(nifti(tmp_path / "a.nii.gz", array, codes, qform=MOVED), tmp_path)
    two_places = codes[0] > 0 and codes[1] > 0
    assert any("contradicts itself" in note and "12 mm" in note for note in scan.notes) == two_places
    assert any("does not say where" in note for note in scan.notes) == (max(codes) <= 0)


def test_header_that_agrees_with_itself_has_no_notes(tmp_path: Path, array: np.ndarray) -> None:
    for codes in ((1, 1), (2, 1), (0, 1), (4, 0)):
        scan = lies_as_in_viewer(nifti(tmp_path / "a.nii.gz", array, codes), tmp_path)
        assert scan.notes == ()
        np.testing.assert_allclose(scan.affine, PLACE, atol=1e-5)


@pytest.mark.parametrize(
    ("unit", "word", "size"), [(1, "metres", 700), (3, "micrometres", 0.0007), (19, "micro", 0.0007)]
)
def test_units_count_as_in_the_viewer(tmp_path: Path, array: np.ndarray, unit: int, word: str, size: float) -> None:
    scan = lies_as_in_viewer(nifti(tmp_path / "a.nii.gz", array, xyzt_units=unit), tmp_path)
    assert scan.spacing[0] == pytest.approx(size, rel=1e-4)
    assert any(word in note for note in scan.notes)


@pytest.mark.parametrize(
    "fields",
    [
        {"pixdim0": 0},
        {"pixdim0": -1},
        {"pixdim0": np.nan},
        {"pixdim1": 0},
        {"pixdim1": -0.7},
        {"pixdim2": np.nan},
        {"pixdim3": 3.0},
        {"quatern_b": 0.9, "quatern_c": 0.9},
        {"quatern_b": np.nan},
        {"dim": [7, 7, 6, 5, 1, 1, 1, 1]},
        {"dim": [4, 7, 6, 5, 0, 1, 1, 1]},
        {"vox_offset": np.nan},
        {"scl_slope": np.inf},
        {"scl_slope": np.nan},
        {"scl_slope": 0.5, "scl_inter": -3},
        {"intent_code": 1002, "cal_min": 5, "cal_max": 1},
    ],
)
@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (0, 1)])
def test_odd_fields_count_as_in_the_viewer(
    tmp_path: Path, array: np.ndarray, codes: tuple[int, int], fields: Mapping[str, Any]
) -> None:
    lies_as_in_viewer(nifti(tmp_path / "a.nii", array, codes, **fields), tmp_path)


def test_answer_opens_where_only_the_qform_of_the_scan_is_sound(tmp_path: Path, array: np.ndarray) -> None:
    rounded = PLACE.copy()
    rounded[0, 1] += 2e-3
    for sform in (rounded, SHEARED):
        lies_as_in_viewer(nifti(tmp_path / "a.nii.gz", array, (1, 1), sform=sform), tmp_path)


def test_scan_that_the_viewer_cannot_open_is_read_as_it_stands_and_told(tmp_path: Path, array: np.ndarray) -> None:
    scan = read_volume(nifti(tmp_path / "a.nii.gz", array, (1, 0), sform=SHEARED))
    np.testing.assert_allclose(scan.affine, SHEARED, atol=1e-5)
    assert "3D Slicer cannot open this file" in scan.notes[0]
    label = np.zeros(SHAPE, np.uint8)
    label[2, 2, 2] = 1
    for ending in (".nii.gz", ".nrrd"):
        write_label(tmp_path / f"answer{ending}", label, scan.affine)
        assert in_viewer(tmp_path / f"answer{ending}")[0].shape == SHAPE
        np.testing.assert_array_equal(read_label(tmp_path / f"answer{ending}", scan, SCHEMA), label)


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha"])
@pytest.mark.parametrize(("shear", "fits"), [(0.0, True), (0.02, True), (0.2, False)])
def test_scan_whose_axes_are_sheared_is_refused_because_no_label_would_lie_on_it(
    tmp_path: Path, array: np.ndarray, name: str, shear: float, fits: bool
) -> None:
    place = np.diag([-1.0, -1.0, 1.0]) @ PLACE[:3, :3] / np.linalg.norm(PLACE[:3, :3], axis=0)
    place[:, 1] += shear * place[:, 0]
    place /= np.linalg.norm(place, axis=0)
    image = SimpleITK.GetImageFromArray(array.transpose())
    image.SetDirection(place.ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / name))
    if not fits:
        with pytest.raises(UserError, match=r"not at right angles.*Resample") as refusal:
            read_volume(tmp_path / name)
        assert refusal.value.status == 422
        return
    scan = read_volume(tmp_path / name)
    write_label(tmp_path / "label.nii.gz", (array > 100).astype(np.uint8), scan.affine)
    np.testing.assert_allclose(in_viewer(tmp_path / "label.nii.gz")[1], in_viewer(tmp_path / name)[1], atol=0.05)


def test_header_with_no_rotation_in_its_only_place_says_so(tmp_path: Path, array: np.ndarray) -> None:
    path = nifti(tmp_path / "scan.nii", array, (0, 1), quatern_b=0.9, quatern_c=0.9, quatern_d=0.9)
    notes = " ".join(read_volume(path).notes)
    assert "The header is damaged" in notes
    assert "none" not in notes


def test_nifti_2_lies_as_nifti_1(tmp_path: Path, array: np.ndarray) -> None:
    image = nibabel.Nifti2Image(array, PLACE)
    image.set_qform(MOVED, 1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    scan = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(scan.affine, MOVED, atol=1e-5)
    np.testing.assert_array_equal(scan.array, array)


def test_values_are_those_of_the_file_itself_though_a_namesake_lies_beside_it(
    tmp_path: Path, array: np.ndarray
) -> None:
    nifti(tmp_path / "a.nii", array[::-1].copy())
    np.testing.assert_array_equal(read_volume(nifti(tmp_path / "a.nii.gz", array)).array, array)


@pytest.mark.parametrize("sform", [np.full((4, 4), np.nan), np.diag([1.0, 0.0, 1.0, 1.0])])
def test_place_that_is_none_is_refused(tmp_path: Path, array: np.ndarray, sform: np.ndarray) -> None:
    path = nifti(tmp_path / "a.nii.gz", array, (1, 0))
    with gzip.open(path) as file:
        content = bytearray(file.read())
    content[280:328] = sform[:3].astype("<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(UserError, match="no usable geometry"):
        read_volume(path)


# --- labels on such scans ---------------------------------------------------------------------------------------------


def drawn_in_viewer(path: Path, scan: Path, label: np.ndarray) -> Path:
    image = SimpleITK.GetImageFromArray(label.transpose())
    image.CopyInformation(SimpleITK.ReadImage(str(scan)))
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("codes", [(2, 1), (0, 0), (1, 2)])
def test_labels_of_all_programs_fit_a_contradictory_scan(
    tmp_path: Path, array: np.ndarray, label: np.ndarray, codes: tuple[int, int]
) -> None:
    path = nifti(tmp_path / "a.nii.gz", array, codes, qform=MOVED)
    scan = read_volume(path)
    found = read_label(drawn_in_viewer(tmp_path / "b.nrrd", path, label), scan, SCHEMA)
    np.testing.assert_array_equal(found, label)
    # As programs on nibabel write it, and this app did: with the place that nibabel takes.
    nibabel.save(nibabel.Nifti1Image(label, nibabel.load(path).affine), tmp_path / "c.nii.gz")
    np.testing.assert_array_equal(read_label(tmp_path / "c.nii.gz", scan, SCHEMA), label)


def test_label_elsewhere_than_all_places_of_its_scan_is_refused(
    tmp_path: Path, array: np.ndarray, label: np.ndarray
) -> None:
    scan = read_volume(nifti(tmp_path / "a.nii.gz", array, (2, 1), qform=MOVED))
    other = PLACE.copy()
    other[1, 3] += 5
    with pytest.raises(UserError, match="lies elsewhere in space"):
        read_label(nifti(tmp_path / "b.nii.gz", label, sform=other, qform=other), scan, SCHEMA)


# --- what a file really is --------------------------------------------------------------------------------------------


def test_plain_file_named_gz_is_read_and_packed_one_without_is_named(tmp_path: Path, array: np.ndarray) -> None:
    raw = nifti(tmp_path / "x.nii", array).read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(raw)
    np.testing.assert_array_equal(read_volume(tmp_path / "plain.nii.gz").array, array)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(raw))
    with pytest.raises(UserError, match=r"packed with gzip.*Rename it to packed.nii.gz"):
        read_volume(tmp_path / "packed.nii")
    (tmp_path / "twice.nii.gz").write_bytes(gzip.compress(gzip.compress(raw)))
    with pytest.raises(UserError, match="packed twice"):
        read_volume(tmp_path / "twice.nii.gz")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.nii.gz", b"PK\x03\x04", "a zip archive"),
        ("a.nii", b"NRRD0004\n", "an NRRD file"),
        ("a.nrrd", b"\0" * 128 + b"DICM", "a DICOM file"),
        ("a.mha", b"\x1f\x8b\x08", "packed with gzip"),
        ("a.nii.gz", b"<!DOCTYPE html>", "a web page"),
        ("a.png", b"\xff\xd8\xff\xe0", "a JPEG picture"),
    ],
)
def test_other_content_is_named(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content + bytes(600))
    with pytest.raises(UserError, match=f"{kind}.*not what its name says") as caught:
        read_volume(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("cut", [50, 12])
def test_file_that_was_cut_or_changed_is_refused(tmp_path: Path, array: np.ndarray, cut: int) -> None:
    big = np.random.default_rng(1).integers(0, 2**15, (30, 30, 30)).astype(np.int16)
    whole = nifti(tmp_path / "a.nii.gz", big).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(whole[:-cut])
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 0x10
    (tmp_path / "c.nii.gz").write_bytes(bytes(changed))
    for name in ("b.nii.gz", "c.nii.gz"):
        with pytest.raises(UserError, match="damaged, cut short"):
            read_volume(tmp_path / name)


def test_values_in_another_file_must_lie_beside_the_header(tmp_path: Path, array: np.ndarray) -> None:
    image = SimpleITK.GetImageFromArray(array.transpose())
    SimpleITK.WriteImage(image, str(tmp_path / "a.mhd"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mhd").array, array)
    text = (tmp_path / "a.mhd").read_text()
    (tmp_path / "b.mhd").write_text(text.replace("a.raw", "/etc/passwd"))
    (tmp_path / "c.mhd").write_text(text.replace("a.raw", "../a.raw"))
    (tmp_path / "d.mhd").write_text(text.replace("a.raw", "LIST\n/etc/passwd"))
    for name in ("b.mhd", "c.mhd", "d.mhd"):
        with pytest.raises(UserError, match="in a file of another folder"):
            read_volume(tmp_path / name)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(UserError, match=r"in the file a.raw, which is not beside it"):
        read_volume(tmp_path / "a.mhd")


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_limit() -> Iterator[None]:
    set_limit(limits.LEAST_VOXELS)
    yield
    set_limit(None)


def bomb(size: int = 64 * 2**20) -> bytes:
    """What unpacks to many bytes."""
    return zlib.compress(bytes(size), 9)


NRRD = "NRRD0004\ntype: {}\ndimension: 3\nsizes: {}\nencoding: {}\n{}\n"
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n"
    "CompressedDataSize = {}\nDimSize = {}\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nrrd", NRRD.format("uchar", "400 400 400", "gzip", "").encode() + gzip.compress(bytes(64 * 2**20))),
        ("b.nrrd", NRRD.format("double", "70 80 90", "raw", "endian: little\n").encode() + bytes(70 * 80 * 90 * 8)),
        ("c.nrrd", NRRD.format("uchar", "9" * 12 + " 99999999 99999999", "raw", "").encode()),
        ("a.mha", META.format(len(bomb()), "400 400 400").encode() + bomb()),
    ],
)
@pytest.mark.usefixtures("small_limit")
def test_scan_that_is_too_large_by_its_header_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="max_voxels") as caught:
        read_volume(tmp_path / name)
    assert caught.value.status == 413


@pytest.mark.usefixtures("small_limit")
def test_packed_nifti_that_unpacks_to_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((400, 400, 400))
    header.set_data_dtype(np.uint8)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4 + 400**3)))
    read = []
    inner = gzip.GzipFile.read

    def watched(self: gzip.GzipFile, size: int = -1) -> bytes:
        content = inner(self, size)
        read.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", watched)
    with pytest.raises(UserError, match=r"400 x 400 x 400.*64.*million") as caught:
        read_volume(tmp_path / "a.nii.gz")
    assert caught.value.status == 413
    assert sum(read) < 1000


@pytest.mark.usefixtures("small_limit")
def test_picture_and_label_that_are_too_large_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (2000, 2000)).save(tmp_path / "a.png")
    scan = Volume(np.zeros(SHAPE, np.float32), PLACE)
    header = nibabel.Nifti1Header()
    header.set_data_shape((400, 400, 400))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(2**20)))
    for read in (lambda: read_volume(tmp_path / "a.png"), lambda: read_label(tmp_path / "a.nii.gz", scan, SCHEMA)):
        with pytest.raises(UserError, match="max_voxels"):
            read()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nrrd", NRRD.format("uchar", "400 400 400", "raw", "").encode() + bytes(100)),
        ("b.nrrd", NRRD.format("uchar", "8 8 8", "gzip", "byte skip: -1\n").encode() + gzip.compress(bytes(2**22))),
        ("a.mha", META.format(10**11, "8 8 8").encode() + zlib.compress(bytes(512))),
        ("b.mha", META.format(100, "8 8 8").replace("NDims = 3", "NDims = 300").encode() + bytes(512)),
        ("c.mha", b"A" * 2**16),
    ],
)
def test_header_that_promises_what_is_not_there_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="damaged, cut short"):
        read_volume(tmp_path / name)


def test_much_behind_the_values_is_not_unpacked(tmp_path: Path) -> None:
    array = np.arange(512, dtype=np.uint8).reshape(8, 8, 8)
    raw = array.tobytes(order="F")
    (tmp_path / "a.nrrd").write_bytes(
        NRRD.format("uchar", "8 8 8", "gzip", "").encode() + gzip.compress(raw + bytes(2**24))
    )
    nifti(tmp_path / "a.nii", array)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes() + bytes(2**24)))
    for name in ("a.nrrd", "a.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, array)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_damage_in_packed_values_is_noticed(tmp_path: Path, ending: str) -> None:
    array = np.random.default_rng(3).integers(0, 300, (12, 11, 10)).astype(np.int16)
    whole = tmp_path / f"whole{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(whole), useCompression=True)
    content = whole.read_bytes()
    assert np.array_equal(read_volume(whole).array.T, array)
    bad = tmp_path / f"bad{ending}"
    for place in range(len(content) // 3, len(content) - 8, 37):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        bad.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            read_volume(bad)
    for length in (len(content) // 2, len(content) - 20, len(content) - 9):
        bad.write_bytes(content[:length])
        with pytest.raises(UserError, match="cannot be read"):
            read_volume(bad)


_NRRD = b"NRRD0004\ntype: uchar\nencoding: raw\n"
_MHA = b"ObjectType = Image\nDimSize = 4 4 4\nElementType = MET_UCHAR\n"
_MANY = b"sizes: " + b"2 " * 16 + b"\n"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("many axes.nrrd", _NRRD + _MANY + b"dimension: 16\n"),
        ("a text called as a field.nrrd", _NRRD + _MANY + b"dimension: 16\ndimension:=3\n"),
        ("a field twice.mha", b"NDims = 16\nNDims = 3\n" + _MHA + b"ElementDataFile = LOCAL\n"),
        ("in small letters.mha", b"NDims = 16\nndims = 3\n" + _MHA + b"ElementDataFile = LOCAL\n"),
        ("two files.mha", b"NDims = 3\n" + _MHA + b"elementdatafile = LOCAL\nElementDataFile = %s%n\n"),
        ("a pattern for anything.mha", b"NDims = 3\n" + _MHA + b"ElementDataFile = LO%s%n\n"),
        ("a pattern without end.mhd", b"NDims = 3\n" + _MHA + b"ElementDataFile = a%99999999d.raw 1 4 1\n"),
    ],
)
def test_header_that_would_end_the_process_is_refused(tmp_path: Path, name: str, head: bytes) -> None:
    """ITK ends the whole process with some of these: it must not get to see what was not checked."""
    path = tmp_path / name
    path.write_bytes(head + b"\n" + bytes(2**16))
    with pytest.raises(UserError, match=f"{name} cannot be read") as caught:
        read_volume(path)
    assert caught.value.status == 422


@pytest.mark.parametrize("own", ["data file:=LOCAL\n", "elementdatafile:=LOCAL\n", "files:=a.raw\n"])
@pytest.mark.parametrize("first", [True, False])
def test_a_text_of_its_own_hides_no_file_of_another_folder(tmp_path: Path, own: str, first: bool) -> None:
    secret = tmp_path / "elsewhere" / "secret.raw"
    secret.parent.mkdir()
    secret.write_bytes(bytes(range(64)))
    lines = [own, f"data file: {secret}\n"]
    head = _NRRD + b"dimension: 3\nsizes: 4 4 4\n" + "".join(lines if first else lines[::-1]).encode()
    (tmp_path / "study").mkdir()
    path = tmp_path / "study" / "a.nrrd"
    path.write_bytes(head + b"\n" + bytes(64))
    with pytest.raises(UserError, match="in a file of another folder"):
        read_volume(path)


def test_files_with_running_numbers_are_read(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(4, 16)
    for number, plane in enumerate(values, start=1):
        (tmp_path / f"s{number:02d}.raw").write_bytes(plane.tobytes())
    path = tmp_path / "a.mhd"
    path.write_bytes(b"NDims = 3\n" + _MHA + b"ElementDataFile = s%02d.raw 1 4 1\n")
    np.testing.assert_array_equal(read_volume(path).array.ravel(order="F"), values.ravel())
