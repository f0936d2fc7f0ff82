"""The descriptor sees structure, not intensities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib.core.filters import box_mean
from lib.generalists import available_generalists, create_generalist
from lib.generalists.mind import Mind

SPACING = (1.0, 1.0, 1.0)


def scan(seed: int = 0, shape: tuple[int, int, int] = (16, 14, 12)) -> Tensor:
    """Smooth random structure, ``[1, *shape]``."""
    noise = torch.rand((1, *shape), generator=torch.Generator().manual_seed(seed))
    return box_mean(noise, 1) * 800


def test_registered_by_name() -> None:
    assert "mind" in available_generalists()
    assert create_generalist("mind").name == "mind"
    with pytest.raises(ValueError, match=r"Known: .*mind"):
        create_generalist("mint")


def test_twelve_values_between_zero_and_one() -> None:
    features = Mind().encode(scan(), SPACING)
    assert features.shape == (12, 16, 14, 12)
    assert features.dtype == torch.float32
    assert float(features.min()) >= 0
    assert float(features.max()) <= 1
    # The most similar pair of neighbours of each voxel has the value 1.
    torch.testing.assert_close(features.amax(0), torch.ones(16, 14, 12))


@pytest.mark.parametrize(("scale", "offset"), [(10.0, 500.0), (0.01, 0.0), (1.0, -1000.0), (3.0, 30_000.0)])
def test_intensity_scale_and_offset_play_no_part(scale: float, offset: float) -> None:
    before, after = (Mind().encode(image, SPACING) for image in (scan(), scan() * scale + offset))
    assert float((before - after).abs().mean()) < 2e-3


def test_inverted_contrast_gives_the_same_description() -> None:
    image = scan()
    torch.testing.assert_close(Mind().encode(-image, SPACING), Mind().encode(image, SPACING), atol=1e-3, rtol=1e-3)


def test_moved_structure_moves_its_description() -> None:
    image = scan(shape=(20, 20, 20))
    moved = image.roll((3, -2, 1), dims=(1, 2, 3))
    expected = Mind().encode(image, SPACING).roll((3, -2, 1), dims=(1, 2, 3))
    inner = (slice(None), slice(8, 12), slice(8, 12), slice(8, 12))
    torch.testing.assert_close(Mind().encode(moved, SPACING)[inner], expected[inner], atol=1e-3, rtol=1e-3)


def test_constant_region_is_described_without_noise() -> None:
    image = scan(shape=(30, 14, 12))
    image[:, :16] = 400.0
    features = Mind().encode(image, SPACING)
    assert bool(torch.isfinite(features).all())
    # Away from the structure nothing differs: every value is 1.
    torch.testing.assert_close(features[:, :12], torch.ones(12, 12, 14, 12))
    assert float(features[:, 16:].std()) > 0.05


def test_constant_scan_and_tiny_scan_stay_finite() -> None:
    torch.testing.assert_close(Mind().encode(torch.full((1, 6, 6, 6), 9.0), SPACING), torch.ones(12, 6, 6, 6))
    tiny = Mind().encode(torch.rand((1, 2, 1, 3)), SPACING)
    assert tiny.shape == (12, 2, 1, 3)
    assert bool(torch.isfinite(tiny).all())


def test_same_scan_same_description() -> None:
    torch.testing.assert_close(Mind().encode(scan(), SPACING), Mind().encode(scan(), SPACING), rtol=0, atol=0)


def test_input_is_left_alone() -> None:
    image = scan()
    copy = image.clone()
    Mind().encode(image, SPACING)
    torch.testing.assert_close(image, copy, rtol=0, atol=0)


def test_box_mean_by_hand() -> None:
    values = torch.zeros(1, 5, 5, 5)
    values[0, 2, 2, 2] = 27.0
    mean = box_mean(values, 1)
    assert float(mean[0, 2, 2, 2]) == pytest.approx(1.0)
    assert float(mean[0, 1, 3, 2]) == pytest.approx(1.0)
    assert float(mean[0, 0, 2, 2]) == 0.0
    torch.testing.assert_close(box_mean(torch.full((2, 4, 3, 2), 5.0), 1), torch.full((2, 4, 3, 2), 5.0))
