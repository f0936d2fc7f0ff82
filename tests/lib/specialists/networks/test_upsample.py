"""Linear interpolation between the levels of a U-Net."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lib.specialists.networks.upsample import _Upsample, upsample

SHAPES = [((2, 3, 5, 4, 6), (9, 8, 12)), ((1, 2, 1, 3, 2), (2, 6, 3)), ((2, 3, 5, 4), (10, 7))]


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_the_gradient_by_products_is_the_gradient(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    values = torch.randn(shape, requires_grad=True, generator=torch.Generator().manual_seed(0))
    plain = functional.interpolate(values, size=size, mode="bilinear" if len(size) == 2 else "trilinear")
    own = _Upsample.apply(values, size)
    torch.testing.assert_close(own, plain)
    torch.testing.assert_close(upsample(values, size), plain)
    after = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(plain, values, after)[0]
    torch.testing.assert_close(torch.autograd.grad(own, values, after)[0], expected)
