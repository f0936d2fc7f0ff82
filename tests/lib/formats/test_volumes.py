"""Scans and labels from files: every format gives the same array and place, and unusable files say why."""

from __future__ import annotations

import errno
import gc
import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

import scanfiles
from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume, write_label
from scanfiles import save_dicom

SCHEMA = LabelSchema(("liver", "spleen"))
SHAPE = (7, 6, 5)
ROTATION = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = ROTATION * [0.7, 0.9, 2.0]
AFFINE[:3, 3] = [-12.0, 30.5, 7.25]


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(-500, 1500, SHAPE).astype(np.int16)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def save_itk(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """NRRD or MHA, by the suffix."""
    return scanfiles.save_itk(path, array, affine)


def world_of_brightest(scan: Volume) -> np.ndarray:
    """Millimetres in RAS of the brightest voxel: the same for every format and axis order."""
    place = np.unravel_index(scan.array.argmax(), scan.shape)
    return (scan.affine @ [*place, 1])[:3]


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "scan.mhd"])
@pytest.mark.slow
def test_files_keep_values_axes_and_place(tmp_path: Path, array: np.ndarray, name: str) -> None:
    save = save_nifti if ".nii" in name else save_itk
    scan = read_volume(save(tmp_path / name, array))
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array, array)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-4)
    np.testing.assert_allclose(scan.spacing, (0.7, 0.9, 2.0), atol=1e-5)
    assert scan.voxel_ml == pytest.approx(0.7 * 0.9 * 2.0 / 1000)


@pytest.mark.slow
def test_values_of_a_float_file_stay_after_the_reader_is_gone(tmp_path: Path) -> None:
    # ITK hands out a view of its own memory: it must not dangle.
    values = np.random.default_rng(1).random((40, 40, 40)).astype(np.float32)
    scan = read_volume(save_itk(tmp_path / "scan.mha", values))
    gc.collect()
    rubbish = [np.full_like(values, 7.0) for _ in range(8)]
    np.testing.assert_array_equal(scan.array, values)
    del rubbish


@pytest.mark.parametrize("step", [1.0, -1.0])
def test_dicom_slice_step_comes_from_positions_not_from_thickness(
    tmp_path: Path, array: np.ndarray, step: float
) -> None:
    affine = AFFINE.copy()
    affine[:, 2] *= step
    scan = read_volume(save_dicom(tmp_path / "series", array, affine, thickness=3.2))
    assert scan.spacing[2] == pytest.approx(2.0, abs=1e-4)
    expected = Volume(array.astype(np.float32), affine)
    np.testing.assert_allclose(world_of_brightest(scan), world_of_brightest(expected), atol=1e-3)
    assert scan.array.sum() == pytest.approx(float(array.sum()))


def test_one_dicom_slice_is_not_a_volume(tmp_path: Path, array: np.ndarray) -> None:
    folder = save_dicom(tmp_path / "series", array, AFFINE, thickness=2.0)
    with pytest.raises(UserError, match="three-dimensional"):
        read_volume(folder / "001.dcm")


def test_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(UserError) as caught:
        read_volume(tmp_path)
    assert caught.value.status == 422


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file gone\.nii\.gz") as caught:
        read_volume(tmp_path / "gone.nii.gz")
    assert caught.value.status == 404


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha"])
def test_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(2).integers(0, 30_000, (32, 32, 32)).astype(np.int16)
    path = (save_nifti if ".nii" in name else save_itk)(tmp_path / name, noise)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged, cut short") as caught:
        read_volume(path)
    assert caught.value.status == 422
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(b"this is no scan"))
    with pytest.raises(UserError, match="no medical image"):
        read_volume(path)


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (8, 8, 8, 3)])
def test_other_than_three_dimensions_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_nifti(tmp_path / "scan.nii.gz", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    with pytest.raises(UserError, match="three-dimensional") as caught:
        read_volume(path)
    assert caught.value.status == 422


def test_single_time_point_is_a_volume(tmp_path: Path, array: np.ndarray) -> None:
    scan = read_volume(save_nifti(tmp_path / "scan.nii.gz", array[..., None]))
    np.testing.assert_array_equal(scan.array, array)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused_and_counted(tmp_path: Path, array: np.ndarray, value: float) -> None:
    values = array.astype(np.float32)
    values[1, 2, :3] = value
    with pytest.raises(UserError, match="3 voxels are NaN or infinite"):
        read_volume(save_nifti(tmp_path / "scan.nii.gz", values))


def test_constant_scan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every voxel has the value 7"):
        read_volume(save_nifti(tmp_path / "scan.nii.gz", np.full(SHAPE, 7, np.int16)))


def test_singular_affine_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    # Voxel sizes look right, but two axes point the same way.
    flat = np.eye(4)
    flat[:3, 2] = flat[:3, 1]
    image = nibabel.Nifti1Image(array, np.eye(4))
    image.set_sform(flat, code=2)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(image, path)
    with pytest.raises(UserError, match="no usable geometry"):
        read_volume(path)


@pytest.fixture
def scan(array: np.ndarray) -> Volume:
    return Volume(array.astype(np.float32), AFFINE)


@pytest.fixture
def label() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 2:5, 1:4], label[4:6, 1:3, 2] = 1, 2
    return label


def test_written_label_comes_back(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    write_label(tmp_path / "new" / "label.nii.gz", label, scan.affine)
    found = read_label(tmp_path / "new" / "label.nii.gz", scan, SCHEMA)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["label.nii.gz"]


def test_label_of_another_format_fits_its_scan(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    # 3D Slicer sends NRRD for NIfTI scans.
    np.testing.assert_array_equal(read_label(save_itk(tmp_path / "label.nrrd", label), scan, SCHEMA), label)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_label_stored_in_another_axis_order_is_turned(
    tmp_path: Path, scan: Volume, label: np.ndarray, axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    # Same voxels at the same places in the world, other axis order: stored axis n is the scan's axis axes[n].
    stored = np.flip(label.transpose(axes), flips)
    to_scan = np.zeros((4, 4))
    to_scan[3, 3] = 1
    for n, axis in enumerate(axes):
        to_scan[axis, n] = -1 if n in flips else 1
        to_scan[axis, 3] = label.shape[axis] - 1 if n in flips else 0
    path = save_nifti(tmp_path / "label.nii.gz", np.ascontiguousarray(stored), scan.affine @ to_scan)
    np.testing.assert_array_equal(read_label(path, scan, SCHEMA), label)


def test_label_that_lies_elsewhere_is_refused(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 5
    with pytest.raises(UserError, match="lies elsewhere in space"):
        read_label(save_nifti(tmp_path / "label.nii.gz", label, moved), scan, SCHEMA)


def test_label_of_another_size_is_refused(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    path = save_nifti(tmp_path / "label.nii.gz", label[:-1])
    with pytest.raises(UserError, match="6 x 6 x 5 voxels, but its scan has 7 x 6 x 5"):
        read_label(path, scan, SCHEMA)


def test_label_outside_the_schema_is_refused(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    label[0, 0, 0] = 3
    with pytest.raises(UserError, match=r"value\(s\) 3.*liver, spleen"):
        read_label(save_nifti(tmp_path / "label.nii.gz", label), scan, SCHEMA)


def test_empty_label_is_refused(tmp_path: Path, scan: Volume) -> None:
    with pytest.raises(UserError, match="is empty"):
        read_label(save_nifti(tmp_path / "label.nii.gz", np.zeros(SHAPE, np.uint8)), scan, SCHEMA)


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")

    def fail(temporary: str) -> None:
        Path(temporary).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="No space left") as caught:
        write_whole(path, fail)
    assert caught.value.status == 507
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_other_write_errors_pass_through(tmp_path: Path) -> None:
    def fail(temporary: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        write_whole(tmp_path / "state.json", fail)
    assert not list(tmp_path.iterdir())


def test_label_with_slightly_other_voxels_of_a_thick_slice_scan_is_refused(tmp_path: Path) -> None:
    """0.7 mm against 0.74 mm in-plane is little beside 5 mm slices, but 2.5 voxels at the far corner."""
    thick = Volume(np.zeros((44, 44, 4), np.float32), np.diag([0.7, 0.7, 5.0, 1.0]))
    inside = np.zeros(thick.shape, np.uint8)
    inside[10:20, 10:20, 1:3] = 1
    path = save_nifti(tmp_path / "a.nii.gz", inside, np.diag([0.74, 0.74, 5.0, 1.0]))
    with pytest.raises(UserError, match="lies elsewhere"):
        read_label(path, thick, LabelSchema(("a",)))
    rounded = save_nifti(tmp_path / "b.nii.gz", inside, np.diag([0.7001, 0.7001, 5.0, 1.0]))
    assert np.array_equal(read_label(rounded, thick, LabelSchema(("a",))), inside)
