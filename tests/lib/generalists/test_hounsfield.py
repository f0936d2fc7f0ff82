"""Computed tomography is told by its values, and nothing else is taken for it."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.generalists.hounsfield import is_ct


def body() -> Tensor:
    """Soft tissue in air."""
    image = torch.full((8, 32, 32), -1000.0)
    image[:, 8:24, 8:24] = 50 + 20 * torch.randn(8, 16, 16)
    return image


def test_a_ct_is_one_whatever_fills_the_outside_of_its_field_of_view() -> None:
    image = body()
    assert is_ct(image)
    for filling in (-1024.0, -2000.0, -3024.0):
        image[:, :4] = filling
        assert is_ct(image)


def test_scans_that_are_no_ct() -> None:
    magnitude = 300 * torch.rand(8, 32, 32)
    phase = 4096 * (2 * torch.rand(8, 32, 32) - 1)
    for image in (magnitude, magnitude - 90, (magnitude - 150) / 90, phase, 7 * phase, torch.zeros(1, 4, 4)):
        assert not is_ct(image)
