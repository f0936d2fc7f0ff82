"""Voxels of colours, complex numbers or vectors are refused in words, and nothing that a reader raises is bare."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.formats.label_files import largest_label, read_label
from lib.formats.volumes import read_volume
from lib.formats.voxel_types import in_words, scalar_voxels

GREY = np.random.default_rng(0).integers(0, 255, (12, 10, 8)).astype(np.uint8)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def colours(names: str) -> np.ndarray:
    """The same in colour, as NIfTI stores it."""
    found = np.zeros(GREY.shape, [(name, "u1") for name in names])
    for name in names:
        found[name] = GREY
    return found


STORED = {
    "colour.nii.gz": (colours("RGB"), "is in colour"),
    "alpha.nii.gz": (colours("RGBA"), "is in colour"),
    "raw.nii.gz": ((GREY + 1j * GREY).astype(np.complex64), "complex numbers"),
    "double.nii": ((GREY + 1j * GREY).astype(np.complex128), "complex numbers"),
}


@pytest.mark.parametrize("name", STORED)
def test_nifti_of_odd_types_is_refused_as_scan_and_as_label(name: str, tmp_path: Path) -> None:
    array, part = STORED[name]
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), tmp_path / name)
    scan, schema = Volume(GREY.astype(np.float32), AFFINE), LabelSchema(("liver",))
    for read in (read_volume, lambda path: read_label(path, scan, schema), largest_label):
        with pytest.raises(UserError, match=part) as error:
            read(tmp_path / name)
        assert error.value.status == 422
        assert name in str(error.value)


@pytest.mark.parametrize("name", ["vector.nrrd", "vector.mha", "pair.mha", "tensor.nrrd"])
def test_vectors_of_nrrd_and_metaimage_are_refused(name: str, tmp_path: Path) -> None:
    count = {"vector": 3, "pair": 2, "tensor": 6}[name.split(".", maxsplit=1)[0]]
    kind = np.uint8 if count == 3 else np.float32
    array = np.stack([GREY.astype(kind)] * count, axis=-1)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), str(tmp_path / name))
    with pytest.raises(UserError) as error:
        read_volume(tmp_path / name)
    assert error.value.status == 422


@pytest.mark.parametrize("kind", ["i1", "u2", "i4", "f4", "f8"])
def test_plain_numbers_are_read_as_before(kind: str, tmp_path: Path) -> None:
    array = (GREY // 2).astype(kind)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), tmp_path / "plain.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "plain.nii.gz").array, array)
    assert scalar_voxels(array, "plain") is array
    assert scalar_voxels(array > 60, "mask").dtype == np.uint8


def test_types_without_any_number_are_refused() -> None:
    with pytest.raises(UserError, match="unknown type"):
        scalar_voxels(np.zeros((2, 2, 2), [("a", "f4"), ("b", "f4")]), "odd.nii")


@pytest.mark.parametrize("error", [TypeError("cast"), KeyError("x"), ZeroDivisionError(), RuntimeError("itk")])
def test_whatever_a_reader_raises_names_the_file_and_hides_its_words(error: Exception) -> None:
    @in_words
    def read(path: Path) -> None:
        raise error

    with pytest.raises(UserError, match=r"scan\.nii\.gz cannot be read") as found:
        read(Path("/data/secret/scan.nii.gz"))
    assert found.value.status == 422
    assert "secret" not in str(found.value)
    assert "cast" not in str(found.value)


def test_refusals_and_a_full_memory_stay_what_they_are() -> None:
    @in_words
    def read(path: str) -> None:
        raise MemoryError if path == "memory" else UserError("gone", status=404)

    with pytest.raises(MemoryError):
        read("memory")
    with pytest.raises(UserError, match="gone") as error:
        read("scan")
    assert error.value.status == 404
