"""Instance normalisation for a GPU. Its arithmetic is looked at on the CPU, see ``test_cuda`` for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib.specialists import SpecialistSpec
from lib.specialists.networks import build_network
from lib.specialists.networks.gpu_norm import GpuInstanceNorm, _Normalise


@pytest.mark.parametrize("shape", [(2, 3, 5, 4, 6), (2, 3, 7, 5)])
def test_values_and_gradients_are_those_of_pytorch(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    image = (torch.randn(shape, generator=generator) * 3 + 4).requires_grad_()
    weight, bias = (torch.randn(3, generator=generator).requires_grad_() for _ in range(2))
    after = torch.randn(shape, generator=generator)
    plain = nn.functional.instance_norm(image, weight=weight, bias=bias, eps=1e-5)
    own = _Normalise.apply(image, weight, bias, 1e-5)
    torch.testing.assert_close(own, plain, atol=1e-5, rtol=1e-4)
    expected = torch.autograd.grad(plain, (image, weight, bias), after)
    for a, b in zip(torch.autograd.grad(own, (image, weight, bias), after), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_half_precision_goes_in_and_comes_out() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 12, 12, 12, generator=generator) * 3 + 4
    weight, bias = torch.ones(3), torch.zeros(3)
    low = image.bfloat16().requires_grad_()
    own = _Normalise.apply(low, weight, bias, 1e-5)
    assert own.dtype == torch.bfloat16
    plain = nn.functional.instance_norm(low.detach().float())
    assert float((own.detach().float() - plain).abs().max()) < 0.04
    (gradient,) = torch.autograd.grad(own.float().square().sum() / 2 + own.float().pow(3).sum(), low)
    exact = low.detach().float().requires_grad_()
    normal = nn.functional.instance_norm(exact)
    (expected,) = torch.autograd.grad(normal.square().sum() / 2 + normal.pow(3).sum(), exact)
    assert gradient.dtype == torch.bfloat16
    assert float((gradient.float() - expected).norm() / expected.norm()) < 0.02


def test_networks_have_it_and_their_weights_keep_their_names() -> None:
    network = build_network(SpecialistSpec(("one",), (4, 8), (1.0, 1.0, 1.0), (16, 16, 16)))
    norms = [module for module in network.modules() if isinstance(module, nn.InstanceNorm3d)]
    assert norms
    assert all(type(norm) is GpuInstanceNorm for norm in norms)
    image = torch.rand(1, 1, 16, 16, 16)
    before = network.eval()(image)
    for norm in norms:
        norm.__class__ = nn.InstanceNorm3d
    torch.testing.assert_close(network(image), before)
