"""TinyViT where only answers are wanted: the same numbers, in less time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib.generalists.sam2d.tiny_vit import ConvNorm, TinyViT
from sam_parts import random_network


@pytest.fixture
def encoder() -> TinyViT:
    encoder = random_network("mobile_sam").image_encoder
    assert isinstance(encoder, TinyViT)
    return encoder


@pytest.mark.parametrize("batch", [1, 2])
def test_answers_are_those_of_a_training(encoder: TinyViT, batch: int) -> None:
    images = torch.randn(batch, 3, 64, 64)
    expected = encoder(images).detach()
    with torch.no_grad():
        found = encoder(images)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_normalisation_is_part_of_the_convolution(encoder: TinyViT, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the encoder's time on a CPU would go into normalisation by itself."""
    alone: list[Tensor] = []
    plain = torch.nn.BatchNorm2d.forward

    def counted(self: torch.nn.BatchNorm2d, x: Tensor) -> Tensor:
        alone.append(x)
        return plain(self, x)

    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", counted)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        encoder(images)
    assert not alone
    encoder(images)
    assert alone


def test_normalisation_that_was_learnt_since_counts() -> None:
    layer, x = ConvNorm(4, 6, 3).eval(), torch.randn(1, 4, 8, 8)
    for _ in range(2):
        torch.nn.init.normal_(layer.bn.weight)
        torch.nn.init.uniform_(layer.bn.running_var, 0.5, 2.0)  # type: ignore[arg-type]
        with torch.no_grad():
            found = layer(x)
        torch.testing.assert_close(found, layer(x).detach(), rtol=1e-4, atol=1e-5)


def test_statistics_are_still_gathered_in_training() -> None:
    layer = ConvNorm(4, 6, 3).train()
    before = layer.bn.running_mean.clone()  # type: ignore[union-attr]
    with torch.no_grad():
        layer(torch.randn(2, 4, 8, 8) + 1)
    assert not torch.equal(layer.bn.running_mean, before)  # type: ignore[arg-type]
