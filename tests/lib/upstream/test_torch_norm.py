"""Instance normalisation in trainings on a CPU: the same numbers, without a change of the memory's layout."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from lib.specialists import SpecialistSpec, build_network
from lib.upstream.torch_norm import CpuInstanceNorm, use_cpu_normalisation, use_plain_normalisation


def scans(batch: int) -> torch.Tensor:
    values = torch.randn(batch, 6, 5, 8, 7, generator=torch.Generator().manual_seed(0))
    return values.contiguous(memory_format=torch.channels_last_3d)


def test_pytorch_itself_changes_the_layout() -> None:
    found = nn.InstanceNorm3d(6, affine=True)(scans(2))
    assert not found.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_same_answer_and_same_gradients_as_the_plain_normalisation(batch: int) -> None:
    plain = nn.InstanceNorm3d(6, affine=True)
    nn.init.uniform_(plain.weight)
    nn.init.uniform_(plain.bias)
    quick = deepcopy(plain)
    use_cpu_normalisation(nn.Sequential(quick))
    assert type(quick) is CpuInstanceNorm
    first, second = scans(batch).requires_grad_(), scans(batch).requires_grad_()
    one, other = plain(first), quick(second)
    torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    assert other.is_contiguous(memory_format=torch.channels_last_3d) == (batch < 9)
    one.square().sum().backward()
    other.square().sum().backward()
    torch.testing.assert_close(second.grad, first.grad, atol=1e-3, rtol=1e-4)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(quick.get_parameter(name).grad, parameter.grad, atol=1e-3, rtol=1e-4)


def test_predictions_stay_with_pytorchs_own() -> None:
    quick, plain = nn.InstanceNorm3d(6), nn.InstanceNorm3d(6)
    use_cpu_normalisation(quick)
    with torch.no_grad():
        assert torch.equal(quick.eval()(scans(1)), plain.eval()(scans(1)))


@pytest.mark.parametrize("network", ["unet3d", "vnet", "dynunet"])
def test_every_normalisation_of_a_specialist_is_one_and_its_state_is_unchanged(network: str) -> None:
    built = build_network(SpecialistSpec(("one",), (4, 8, 8), (1.0, 1.0, 1.0), (16, 16, 16), network))
    norms = [module for module in built.modules() if isinstance(module, nn.InstanceNorm3d)]
    assert norms
    assert {type(module) for module in norms} == {CpuInstanceNorm}
    use_plain_normalisation(built)
    assert {type(module) for module in norms} == {nn.InstanceNorm3d}
