"""Half precision: where it is used, and that it changes answers by no more than rounding does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lib.specialists import SpecialistSpec, build_network, predict_prepared
from lib.specialists.precision import MixedPrecision, cpu_multiplies_bfloat16


def has(capability: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capability)


@pytest.mark.parametrize("known", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_computes_in_bfloat16_only_if_it_can(known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, image = nn.Conv3d(1, 2, 3), torch.randn(2, 1, 5, 5, 5)
    has({"avx2": True, known: True}, monkeypatch)
    with MixedPrecision("cpu")():
        assert layer(image).dtype == torch.bfloat16
    has({"avx2": True, known: False}, monkeypatch)
    with MixedPrecision("cpu")():
        assert layer(image).dtype == torch.float32
    has({}, monkeypatch)  # another kind of CPU
    assert not cpu_multiplies_bfloat16()


def test_a_prediction_in_bfloat16_is_that_in_float32_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    own = SpecialistSpec(("one", "two"), (4, 8, 16), (1.0, 1.0, 1.0), (16, 16, 16))
    network, image = build_network(own), torch.randn(1, 24, 20, 18)
    answers: list[Tensor] = []
    for can in (True, False):
        has({"avx512_bf16": can}, monkeypatch)
        answers.append(predict_prepared([network], own, image))
    assert answers[0].dtype == torch.float32
    torch.testing.assert_close(*answers, atol=0.05, rtol=0)
    assert float((answers[0] - answers[1]).abs().mean()) < 0.005


@pytest.mark.parametrize("can", [True, False])
def test_a_step_is_down_the_gradient_in_either_precision(can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    has({"avx512_bf16": can}, monkeypatch)
    precision = MixedPrecision("cpu")
    layer, image = nn.Conv3d(1, 1, 3), torch.randn(4, 1, 6, 6, 6)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        with precision():
            answer = layer(image)
        loss = (answer.float() - 1).square().mean()
        precision.step(loss, optimiser, clip=1.0)
        losses.append(float(loss))
    assert layer.weight.dtype == torch.float32
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
