"""Planes lie as radiologists look at them, whatever the order of the scan's axes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lib.core.geometry import Volume
from lib.report.planes import look_at, small_picture

AXES = {"ras": np.diag([1.0, 1, 1, 1]), "lps": np.diag([-1.0, -1, 1, 1]), "feet last": np.diag([1.0, 1, -1, 1])}


def scan_with_a_spot(affine: np.ndarray) -> Volume:
    """Right, anterior and superior of the middle is a bright spot, 2 mm slices."""
    world = np.diag([1.0, 1.0, 2.0, 1.0]) @ affine
    middle = np.array([10.0, 12.0, 8.0])
    spot = np.linalg.inv(affine[:3, :3]) @ np.array([4.0, 3.0, 2.0])
    array = np.zeros((21, 25, 17), np.float32)
    array[tuple(np.round(middle + spot).astype(int))] = 100
    array += np.linspace(0, 1, array.size, dtype=np.float32).reshape(array.shape)
    return Volume(array, world)


@pytest.mark.parametrize("name", AXES)
def test_the_patients_right_is_on_the_left_and_the_head_is_up(name: str) -> None:
    looked = look_at(scan_with_a_spot(AXES[name]))
    assert looked.spacing == (1.0, 1.0, 2.0)
    axial = looked.cut("axial", 10)
    assert np.unravel_index(axial.argmax(), axial.shape) == (12 - 3, 10 - 4)
    coronal = looked.cut("coronal", 15)
    assert np.unravel_index(coronal.argmax(), coronal.shape) == (8 - 2, 10 - 4)
    sagittal = looked.cut("sagittal", 14)
    assert np.unravel_index(sagittal.argmax(), sagittal.shape) == (8 - 2, 12 - 3)
    for plane in looked.planes:
        assert looked.cut(plane, 0).shape == looked.size(plane)


def test_a_2d_image_has_one_plane() -> None:
    array = np.arange(600, dtype=np.float32).reshape(20, 30, 1)
    looked = look_at(Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0])))
    assert looked.planes == ("axial",)
    np.testing.assert_array_equal(looked.cut("axial", 0), array[:, :, 0].T)  # as a picture: rows, then columns
    assert looked.middle() == {"axial": 0}


def test_a_small_picture_shows_the_contours_of_each_structure() -> None:
    scan = scan_with_a_spot(AXES["lps"])
    looked = look_at(scan)
    label = np.zeros(scan.shape, np.uint8)
    label[5:15, 5:15, 4:12] = 1
    label[16:19, 16:20, 4:12] = 2
    colours = {1: (255, 159, 67), 2: (72, 219, 251)}
    plain, drawn = (
        np.asarray(Image.open(io.BytesIO(small_picture(looked, each, 100, colours))), dtype=int)
        for each in (None, looked.turned(label))
    )
    assert plain.shape == (100, 300, 3)
    assert np.ptp(plain, axis=-1).max() < 12  # grey, but for JPEG
    for colour in colours.values():
        near = np.abs(drawn - np.array(colour)).max(axis=-1) < 60
        assert near.sum() > 20


def test_planes_are_taken_where_the_structures_are_largest() -> None:
    scan = scan_with_a_spot(AXES["ras"])
    looked = look_at(scan)
    label = np.zeros(scan.shape, np.uint8)
    label[3:8, 18:22, 14:16] = 1
    label[5, 20, 2:16] = 1
    assert looked.middle(looked.turned(label)) == {"axial": 14, "coronal": 20, "sagittal": 5}
    assert looked.middle(np.zeros(scan.shape, np.uint8)) == {"axial": 8, "coronal": 12, "sagittal": 10}
