"""Predictions of a single small window: the same answer, and not slower than PyTorch's own choice."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from lib.specialists import SpecialistSpec, build_network
from lib.upstream.torch_convolution import CpuConvolution, use_cpu_convolutions, use_plain_convolutions


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
@pytest.mark.parametrize(("batch", "chosen"), [(1, "Slow3d"), (2, "Mkldnn")])
def test_pytorch_does_not_choose_onednn_for_a_single_small_item(batch: int, chosen: str) -> None:
    image, weight = torch.zeros(batch, 16, 24, 24, 24), torch.zeros(16, 16, 3, 3, 3)
    found = torch._C._select_conv_backend(image, weight, None, [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1, None)
    assert str(found).rpartition(".")[2] == chosen


@pytest.mark.parametrize("groups", [1, 2])
def test_same_answer_and_same_gradients_as_the_plain_convolution(groups: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv3d(4, 6, 3, padding=1, stride=(1, 2, 1), groups=groups)
    quick = deepcopy(plain)
    use_cpu_convolutions(nn.Sequential(quick))
    assert type(quick) is CpuConvolution
    image = torch.randn(1, 4, 9, 8, 7)
    with torch.no_grad():
        torch.testing.assert_close(quick(image), plain(image), atol=1e-5, rtol=1e-5)
    plain(image).square().sum().backward()
    quick(image).square().sum().backward()
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(quick.get_parameter(name).grad, parameter.grad, atol=1e-4, rtol=1e-4)


def test_every_3d_convolution_of_a_specialist_is_one_and_its_state_is_unchanged() -> None:
    network = build_network(SpecialistSpec(("one",), (4, 8), (1.0, 1.0, 1.0), (16, 16, 16)))
    kinds = {type(module) for module in network.modules() if isinstance(module, nn.Conv3d)}
    assert kinds == {CpuConvolution}
    assert {type(m) for m in deepcopy(network).modules() if isinstance(m, nn.Conv3d)} == kinds
    use_plain_convolutions(network)
    assert {type(module) for module in network.modules() if isinstance(module, nn.Conv3d)} == {nn.Conv3d}


@pytest.mark.parametrize("slices", [1, 2])
def test_few_slices_are_convolved_in_float32_in_a_training(slices: int) -> None:
    """OneDNN's gradient for two slices in bfloat16 is no number now and then, and ends the training."""
    torch.manual_seed(0)
    plain = nn.Conv3d(8, 8, 3, padding=1)
    quick = deepcopy(plain)
    use_cpu_convolutions(nn.Sequential(quick))
    image = torch.randn(1, 8, slices, 9, 9)
    plain(image).square().mean().backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = quick(image)
    found.square().mean().backward()
    torch.testing.assert_close(quick.weight.grad, plain.weight.grad)
