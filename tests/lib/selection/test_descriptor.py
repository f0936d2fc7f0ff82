"""Descriptors of whole scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.core.geometry import Volume
from lib.generalists.mind import Mind
from lib.selection import describe
from phantoms import blobs

SCAN, _ = blobs()


def cosine(a: Volume, b: Volume) -> float:
    return float(describe(a, Mind()) @ describe(b, Mind()))


def test_it_has_unit_length_and_repeats() -> None:
    own = describe(SCAN, Mind())
    assert own.dtype == torch.float32
    assert own.ndim == 1
    assert len(own) <= 2048
    assert float(own.norm()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(own, describe(SCAN, Mind()), rtol=0, atol=0)


def test_other_anatomy_is_further_away_than_other_noise() -> None:
    noisy, _ = blobs(seed=1)
    moved, _ = blobs(seed=1, centre=(6, -5, 4))
    assert cosine(SCAN, noisy) > cosine(SCAN, moved) + 0.1


def test_intensity_scale_and_offset_do_not_matter() -> None:
    assert cosine(SCAN, Volume(SCAN.array * 7 + 100, SCAN.affine)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_orientation_of_storage_does_not_matter(axis: int) -> None:
    affine = SCAN.affine.copy()
    affine[:, 3] += affine[:, axis] * (SCAN.shape[axis] - 1)
    affine[:3, axis] *= -1
    assert cosine(SCAN, Volume(np.flip(SCAN.array, axis).copy(), affine)) == pytest.approx(1.0, abs=1e-4)


def test_swapped_axes_do_not_matter() -> None:
    turned = Volume(SCAN.array.transpose(2, 0, 1).copy(), SCAN.affine[:, [2, 0, 1, 3]])
    assert cosine(SCAN, turned) == pytest.approx(1.0, abs=1e-4)


def test_resolution_and_padding_hardly_matter() -> None:
    fine = Volume(SCAN.array.repeat(2, 0).repeat(2, 1).repeat(2, 2), SCAN.affine @ np.diag([0.5, 0.5, 0.5, 1]))
    assert cosine(SCAN, fine) > 0.98
    padded = Volume(np.pad(SCAN.array, ((5, 9), (0, 3), (7, 0)), constant_values=0), SCAN.affine)
    assert cosine(SCAN, padded) == pytest.approx(1.0, abs=1e-4)


class ManyChannels:
    """A model of 300 channels on a coarse grid, each a shifted copy of the scan's brightness."""

    name = "many"

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        small = torch.nn.functional.adaptive_avg_pool3d(image[None], 6)[0, 0]
        return torch.stack([small.roll(n, n % 3) * (1 + n / 300) for n in range(300)])


def test_many_channels_become_a_short_descriptor_that_still_tells_scans_apart() -> None:
    noisy, _ = blobs(seed=1)
    moved, _ = blobs(seed=1, centre=(6, -5, 4))
    own, same, other = (describe(scan, ManyChannels()) for scan in (SCAN, noisy, moved))
    assert len(own) <= 2048
    assert float(own @ same) > float(own @ other)


def test_a_2d_image_is_described_too() -> None:
    image = Volume(SCAN.array[:, :, 18:19].copy(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    found = describe(image, Mind())
    assert bool(torch.isfinite(found).all())
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-5)
