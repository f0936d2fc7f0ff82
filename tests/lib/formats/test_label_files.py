"""Labels as people and 3D Slicer submit them: taken where their meaning is clear, refused with what is unclear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.formats.label_files import largest_label, read_label
from lib.formats.segmentations import names_in_file, values_by_name
from lib.setup.settings import Settings
from scanfiles import LPS
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from tiny_study import make_tiny_study, tiny_scan

SHAPE = (14, 12, 10)
SCHEMA = LabelSchema(("ball", "rod"))
PLACE = np.diag([2.0, 2.0, 2.5, 1.0])
PLACE[:3, 3] = (-40, -30, 10)


@pytest.fixture
def scan() -> Volume:
    return Volume(np.zeros(SHAPE, np.float32), PLACE)


@pytest.fixture
def label() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[3:6, 4:8, 2:5], label[8:11, 3:5, 4:7] = 1, 2
    return label


def nifti(path: Path, array: np.ndarray, affine: np.ndarray = PLACE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def seg(path: Path, array: np.ndarray, affine: np.ndarray = PLACE, **fields: Any) -> Path:
    """Write NRRD as 3D Slicer does: ``[D, H, W]``, or ``[layers, D, H, W]``; ``Segment0_Name`` and the like."""
    lps = LPS @ affine
    columns = ["(" + ",".join(f"{v:g}" for v in lps[:3, n]) + ")" for n in range(3)]
    kinds = ["domain"] * 3
    if array.ndim == 4:
        columns, kinds = ["none", *columns], ["list", *kinds]
    lines = [
        "NRRD0004",
        f"type: {'double' if array.dtype == np.float64 else array.dtype}",
        f"dimension: {array.ndim}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(str(n) for n in array.shape),
        "space directions: " + " ".join(columns),
        "kinds: " + " ".join(kinds),
        "endian: little",
        "encoding: raw",
        "space origin: (" + ",".join(f"{v:g}" for v in lps[:3, 3]) + ")",
        *[f"{name}:={value}" for name, value in fields.items()],
    ]
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + array.tobytes(order="F"))
    return path


def segments(*named: tuple[str, int, int]) -> dict[str, Any]:
    """Header of segments: name, layer, value."""
    fields: dict[str, Any] = {"Segmentation_MasterRepresentation": "Binary labelmap"}
    for n, (name, layer, value) in enumerate(named):
        fields |= {f"Segment{n}_Name": name, f"Segment{n}_Layer": layer, f"Segment{n}_LabelValue": value}
    return fields


def moved_by(*voxels: int) -> np.ndarray:
    affine = PLACE.copy()
    affine[:3, 3] = (PLACE @ [*voxels, 1])[:3]
    return affine


def test_cropped_segmentation_is_laid_where_its_header_says(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    part = label[3:11, 3:8, 2:7]
    found = read_label(seg(tmp_path / "a.nrrd", part, moved_by(3, 3, 2)), scan, SCHEMA)
    np.testing.assert_array_equal(found, label)
    np.testing.assert_array_equal(
        read_label(nifti(tmp_path / "a.nii.gz", part, moved_by(3, 3, 2)), scan, SCHEMA), label
    )
    # Stored with other axes, and flipped.
    turned = np.flip(part.transpose(2, 0, 1), 1)
    to_scan = np.zeros((4, 4))
    to_scan[2, 0], to_scan[0, 1], to_scan[1, 2], to_scan[3, 3] = 1, -1, 1, 1
    to_scan[:3, 3] = (10, 3, 2)
    found = read_label(nifti(tmp_path / "b.nii.gz", np.ascontiguousarray(turned), PLACE @ to_scan), scan, SCHEMA)
    np.testing.assert_array_equal(found, label)


@pytest.mark.parametrize("axis", range(3))
def test_segmentation_of_one_slice_is_laid_on_it(tmp_path: Path, scan: Volume, label: np.ndarray, axis: int) -> None:
    """Slicer stores no more than what is outlined: a slice, a row of voxels, a voxel."""
    named = segments(("ball", 0, 1), ("rod", 0, 2))
    expected = np.zeros_like(label)
    one = tuple(slice(4, 5) if n == axis else slice(None) for n in range(3))
    expected[one] = label[one]
    thin = tuple(slice(4, 5) if n == axis else slice(2, None) for n in range(3))
    start = [4 if n == axis else 2 for n in range(3)]
    file = seg(tmp_path / "a.nrrd", expected[thin], moved_by(*start), **named)
    np.testing.assert_array_equal(read_label(file, scan, SCHEMA), expected)
    assert largest_label(file) == expected.max()
    voxel = read_label(seg(tmp_path / "b.nrrd", np.ones((1, 1, 1), np.uint8), moved_by(3, 4, 5), **named), scan, SCHEMA)
    assert np.argwhere(voxel).tolist() == [[3, 4, 5]]


def test_empty_segmentation_is_one_voxel_anywhere(tmp_path: Path, scan: Volume) -> None:
    empty = seg(tmp_path / "a.nrrd", np.zeros((1, 1, 1), np.uint8), np.eye(4), **segments(("ball", 0, 1)))
    found = read_label(empty, scan, SCHEMA, may_be_empty=True)
    assert found.shape == scan.shape
    assert not found.any()
    with pytest.raises(UserError, match="is empty"):
        read_label(empty, scan, SCHEMA)


def test_mask_of_0_and_255_is_the_one_structure(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    file = nifti(tmp_path / "a.nii.gz", (label == 1).astype(np.uint8) * 255)
    np.testing.assert_array_equal(read_label(file, scan, LabelSchema(("ball",))), label == 1)
    assert largest_label(file) == 1
    with pytest.raises(UserError, match="255, but this server knows 1 to 2"):
        read_label(file, scan, SCHEMA)


def test_part_that_begins_where_the_scan_does_is_taken_of_segmentations_only(
    tmp_path: Path, scan: Volume, label: np.ndarray
) -> None:
    part = label[:12]
    named = segments(("ball", 0, 1), ("rod", 0, 2))
    np.testing.assert_array_equal(read_label(seg(tmp_path / "a.nrrd", part, **named), scan, SCHEMA), label)
    with pytest.raises(UserError, match="12 x 12 x 10 voxels, but its scan has 14 x 12 x 10"):
        read_label(nifti(tmp_path / "a.nii.gz", part), scan, SCHEMA)  # or is it that of another scan?


def test_label_that_reaches_over_its_scan_loses_nothing(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    wide = np.pad(label, ((2, 3), (1, 0), (4, 4)))
    path = nifti(tmp_path / "a.nii.gz", wide, moved_by(-2, -1, -4))
    np.testing.assert_array_equal(read_label(path, scan, SCHEMA), label)
    np.testing.assert_array_equal(read_label(nifti(tmp_path / "b.nii.gz", np.pad(label, (0, 2))), scan, SCHEMA), label)
    wide[0, 0, :3] = 1
    with pytest.raises(UserError, match="3 of its outlined voxels lie outside"):
        read_label(nifti(tmp_path / "c.nii.gz", wide, moved_by(-2, -1, -4)), scan, SCHEMA)


def test_label_moved_by_whole_voxels_or_on_other_voxels_is_refused(
    tmp_path: Path, scan: Volume, label: np.ndarray
) -> None:
    for affine in (moved_by(1, 0, 0), moved_by(0, 0, -2), PLACE @ np.diag([1.1, 1, 1, 1])):
        with pytest.raises(UserError, match="lies elsewhere"):
            read_label(nifti(tmp_path / "a.nii.gz", label, affine), scan, SCHEMA)
    part = label[3:11, 3:8, 2:7]
    fine = moved_by(3, 3, 2) @ np.diag([0.5, 0.5, 0.5, 1])
    with pytest.raises(UserError, match="8 x 5 x 5 voxels"):
        read_label(seg(tmp_path / "b.nrrd", part, fine), scan, SCHEMA)


def test_half_a_voxel_is_rounding(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    affine = PLACE.copy()
    affine[:3, 3] += (0.9, -0.9, 1.2)
    np.testing.assert_array_equal(read_label(nifti(tmp_path / "a.nii.gz", label, affine), scan, SCHEMA), label)


@pytest.mark.parametrize("factor", [1.0000001, 0.99999998, 1.0004])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_values_with_rounding_are_whole(
    tmp_path: Path, scan: Volume, label: np.ndarray, factor: float, kind: str
) -> None:
    path = nifti(tmp_path / "a.nii.gz", (label * factor).astype(kind))
    np.testing.assert_array_equal(read_label(path, scan, SCHEMA), label)
    np.testing.assert_array_equal(read_label(seg(tmp_path / "a.nrrd", label * 1.0000001), scan, SCHEMA), label)


def test_scaled_values_are_whole_and_halves_are_not(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    image = nibabel.Nifti1Image((label * 100).astype(np.uint8), PLACE)
    image.header.set_slope_inter(0.01, 0)
    image.to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_label(tmp_path / "a.nii.gz", scan, SCHEMA), label)
    assert largest_label(tmp_path / "a.nii.gz") == 2
    for wrong in (0.5, np.nan, np.inf, 1e30):
        array = label.astype(np.float32)
        array[0, 0, 0] = wrong
        with pytest.raises(UserError, match="not whole numbers"):
            read_label(nifti(tmp_path / "b.nii.gz", array), scan, SCHEMA)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", "f4", "f8"])
def test_type_of_the_values_does_not_matter(tmp_path: Path, scan: Volume, label: np.ndarray, kind: str) -> None:
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label.astype(kind), PLACE, dtype=np.dtype(kind)), path)
    np.testing.assert_array_equal(read_label(path, scan, SCHEMA), label)


def test_layers_become_one_label_map_by_what_the_header_says(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    layers = np.stack([label == 1, label == 2]).astype(np.uint8)
    named = segments(("rod", 1, 1), ("ball", 0, 1))
    path = seg(tmp_path / "a.nrrd", layers, **named)
    assert names_in_file(path) == [("rod", 1), ("ball", 2)]
    found = read_label(path, scan, SCHEMA)
    np.testing.assert_array_equal(found, np.array([0, 2, 1])[label])
    own = seg(
        tmp_path / "b.nrrd",
        layers * np.array([7, 3], np.uint8)[:, None, None, None],
        **segments(("ball", 0, 7), ("rod", 1, 3)),
    )
    assert names_in_file(own) == [("ball", 7), ("rod", 3)]
    np.testing.assert_array_equal(read_label(own, scan, SCHEMA, values={7: 1, 3: 2}), label)


def test_layers_without_a_word_are_structures_in_their_order(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    layers = np.stack([label == 1, label == 2]).astype(np.uint8)
    np.testing.assert_array_equal(read_label(seg(tmp_path / "a.nrrd", layers), scan, SCHEMA), label)
    np.testing.assert_array_equal(read_label(seg(tmp_path / "b.nrrd", label[None]), scan, SCHEMA), label)
    mixed = np.stack([label, (label == 0).astype(np.uint8) * 0])
    mixed[1, 0, 0, 0] = 1
    with pytest.raises(UserError, match="2 layers with several values each"):
        read_label(seg(tmp_path / "c.nrrd", mixed), scan, SCHEMA)


def test_segments_that_overlap_are_named(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    layers = np.stack([label == 1, label == 2]).astype(np.uint8)
    layers[1, 3, 4, 2:4] = 1
    path = seg(tmp_path / "a.nrrd", layers, **segments(("ball", 0, 1), ("rod", 1, 1)))
    with pytest.raises(UserError, match=r"overlap: ball and rod \(2 voxels\)"):
        read_label(path, scan, SCHEMA)


def test_value_that_no_segment_names_is_refused(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    layers = np.stack([label == 1, (label == 2) * 4]).astype(np.uint8)
    path = seg(tmp_path / "a.nrrd", layers, **segments(("ball", 0, 1), ("rod", 1, 1)))
    with pytest.raises(UserError, match="layer 2 holds the value 4"):
        read_label(path, scan, SCHEMA)


def test_values_are_checked_after_they_are_translated(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    path = nifti(tmp_path / "a.nii.gz", np.array([0, 7, 3], np.uint8)[label])
    np.testing.assert_array_equal(read_label(path, scan, SCHEMA, values={7: 1, 3: 2}), label)
    np.testing.assert_array_equal(read_label(path, scan, SCHEMA, values=lambda present: {present[0]: 2, 7: 1}), label)
    with pytest.raises(UserError, match=r"value\(s\) 3, which none of its names stands for"):
        read_label(path, scan, SCHEMA, values={7: 1})
    with pytest.raises(UserError, match=r"value\(s\) 3, 7, but this server knows 1 to 2"):
        read_label(path, scan, SCHEMA)


def test_names_of_a_file_decide_what_its_values_mean(tmp_path: Path) -> None:
    assert values_by_name([("ball", 7), ("rod", 3)], [3, 7], SCHEMA, "The label") == {7: 1, 3: 2}
    assert values_by_name([("Ball", 1), ("rod", 2), ("Segment_3", 3)], [1, 2], SCHEMA, "The label") == {}
    assert values_by_name([("Segment_1", 4)], [4], LabelSchema(("liver",)), "The label") == {4: 1}
    with pytest.raises(UserError, match=r"structure\(s\) Segment_3, but this server knows ball, rod"):
        values_by_name([("ball", 1), ("Segment_3", 3)], [1, 3], SCHEMA, "The label")
    for name in ("a.nii.gz", "missing.nrrd"):
        assert names_in_file(tmp_path / name) == []


def test_older_segmentations_have_a_layer_a_segment(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    layers = np.stack([label == 1, label == 2]).astype(np.uint8)
    path = seg(tmp_path / "a.nrrd", layers, Segment0_Name="ball", Segment1_Name="rod")
    assert names_in_file(path) == [("ball", 1), ("rod", 2)]
    np.testing.assert_array_equal(read_label(path, scan, SCHEMA), label)


def test_file_of_simpleitk_fits(tmp_path: Path, scan: Volume, label: np.ndarray) -> None:
    image = SimpleITK.GetImageFromArray(label.transpose())
    image.SetSpacing((2.0, 2.0, 2.5))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    image.SetOrigin((40, 30, 10))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"), useCompression=True)
    np.testing.assert_array_equal(read_label(tmp_path / "a.mha", scan, SCHEMA), label)


def test_names_of_a_file_go_through_the_study(tmp_path: Path) -> None:
    """A segmentation that somebody has copied into the study: its names make the structures, whatever its values."""
    study = make_tiny_study(tmp_path / "study", scans=2, finals=0)
    _, label, affine = tiny_scan(1)
    (study / "labels" / "final").mkdir(parents=True)
    values = np.array([0, 7, 3], np.uint8)[label]
    seg(study / "labels" / "final" / "case_1.nrrd", values, affine, **segments(("ball", 0, 7), ("rod", 0, 3)))
    seen = Study(str(study), StudyDatastore(str(study)), Settings(), tmp_path / "models")
    assert seen.schema.names == ("ball", "rod")
    np.testing.assert_array_equal(seen.template(seen.fully_annotated()[0]).label, label)
    case = next(case for case in seen.cases() if case.label is not None)
    assert case.label is not None
    np.testing.assert_array_equal(nibabel.load(case.label).get_fdata(), label)
