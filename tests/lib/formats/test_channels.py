"""Scans with several channels, as nnU-Net names them or in one file with four axes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.formats.channels import set_channels
from lib.formats.volumes import read_volume
from lib.specialists import SpecialistSpec, prepare
from lib.specialists.prepare import seen
from tiny_study import save_nifti, tiny_scan


@pytest.fixture(autouse=True)
def two_channels() -> Iterator[None]:
    set_channels(("T1", "T2"))
    yield
    set_channels(())


def _other(image: np.ndarray) -> np.ndarray:
    return (900 - 1.5 * image).astype(np.float32)


def _coarser(image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A scan on voxels twice as large, its axes swapped, moved by half a voxel as the middle of two lies there."""
    small = image[: image.shape[0] // 2 * 2].reshape(-1, 2, *image.shape[1:]).mean(1)
    turned = affine @ np.array([[0, 2, 0, 0.5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    return small.transpose(1, 0, 2), turned


@pytest.fixture
def case(tmp_path: Path) -> Path:
    image, _, affine = tiny_scan(1)
    save_nifti(tmp_path / "case_0001.nii.gz", _other(image), affine)
    return save_nifti(tmp_path / "case_0000.nii.gz", image, affine)


def test_the_second_channel_lies_beside_the_first(case: Path) -> None:
    scan = read_volume(case)
    np.testing.assert_array_equal(scan.array, tiny_scan(1)[0])
    assert len(scan.further) == 1
    np.testing.assert_allclose(scan.further[0], _other(tiny_scan(1)[0]))
    np.testing.assert_array_equal(scan.channel(1).array, scan.further[0])
    assert scan.channel(1).further == ()


def test_a_channel_on_another_grid_is_resampled_onto_the_first(case: Path) -> None:
    image, _, affine = tiny_scan(1)
    smooth = _other(image)
    save_nifti(case.with_name("case_0001.nii.gz"), *_coarser(smooth, affine))
    scan = read_volume(case)
    assert scan.further[0].shape == scan.shape
    inner = scan.further[0][1:35], smooth[1:35]
    assert np.corrcoef(inner[0].ravel(), inner[1].ravel())[0, 1] > 0.95
    centres = scan.further[0][:36].reshape(18, 2, 32, 28).mean(1)[1:-1]
    pairs = smooth[:36].reshape(18, 2, 32, 28).mean(1)
    np.testing.assert_allclose(centres, (0.125 * pairs[:-2] + 0.75 * pairs[1:-1] + 0.125 * pairs[2:]), atol=0.5)


def test_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    image, _, affine = tiny_scan(1)
    file = save_nifti(tmp_path / "four.nii.gz", np.stack([image, _other(image)], axis=-1).astype(np.float32), affine)
    scan = read_volume(file)
    np.testing.assert_array_equal(scan.array, image)
    np.testing.assert_allclose(scan.further[0], _other(image))
    three = save_nifti(tmp_path / "three.nii.gz", np.stack([image] * 3, axis=-1), affine)
    with pytest.raises(UserError, match="36 x 32 x 28 x 3"):
        read_volume(three)


def test_what_is_missing_or_wrong_is_named(case: Path, tmp_path: Path) -> None:
    image, _, affine = tiny_scan(1)
    second = case.with_name("case_0001.nii.gz")
    second.unlink()
    with pytest.raises(UserError, match=r"case_0000\.nii\.gz: its channel 'T2' is missing.*no case_0001\.nii\.gz"):
        read_volume(case)
    moved = affine.copy()
    moved[0, 3] += 1000
    save_nifti(second, image, moved)
    with pytest.raises(UserError, match=r"case_0001\.nii\.gz shows another part of the body"):
        read_volume(case)
    save_nifti(second, np.full_like(image, 7), affine)
    with pytest.raises(UserError, match=r"case_0001\.nii\.gz: every voxel"):
        read_volume(case)
    plain = save_nifti(tmp_path / "plain.nii.gz", image, affine)
    with pytest.raises(UserError, match=r"plain\.nii\.gz has one channel, but scans of this study have 2"):
        read_volume(plain)


def test_without_the_setting_all_is_as_before(case: Path, tmp_path: Path) -> None:
    set_channels(())
    image, _, affine = tiny_scan(1)
    assert read_volume(case).further == ()
    assert read_volume(case.with_name("case_0001.nii.gz")).further == ()
    four = save_nifti(tmp_path / "four.nii.gz", np.stack([image, image], axis=-1), affine)
    with pytest.raises(UserError, match="three-dimensional, single-channel"):
        read_volume(four)


def test_each_channel_is_normalised_by_itself(case: Path) -> None:
    spec = SpecialistSpec(("ball",), (4, 8), (6.0, 6.0, 6.0), (16, 16, 16), inputs=2)
    scan = read_volume(case)
    _, image = prepare(scan, spec)
    assert len(image) == 2
    for channel in image:
        assert abs(float(channel.mean())) < 1e-3
        assert abs(float(channel.std()) - 1) < 1e-3
    save_nifti(case.with_name("case_0001.nii.gz"), 3 * _other(tiny_scan(1)[0]) + 50, tiny_scan(1)[2])
    torch.testing.assert_close(prepare(read_volume(case), spec)[1], image, atol=1e-3, rtol=1e-3)
    assert len(seen(frame_of(scan), scan, 1)) == 1
    with pytest.raises(UserError, match="knows scans with 3 channels; this one has 2"):
        seen(frame_of(scan), scan, 3)
