"""SAM's blocks have an attention and a perceptron by name, and no place for more."""

from __future__ import annotations

from typing import Any

from segment_anything.modeling.image_encoder import Block  # type: ignore[import-untyped]
from torch import Tensor, nn

from lib.upstream.sam_blocks import replace_in_blocks
from sam_parts import tiny_mobile, tiny_vit_b


class Around(nn.Module):
    def __init__(self, inner: nn.Module, channels: int) -> None:
        super().__init__()
        self.inner, self.channels = inner, channels

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        return result


def test_a_block_has_no_place_for_adapters_of_its_own() -> None:
    assert set(dict(Block(8, 2).named_children())) == {"norm1", "attn", "norm2", "mlp"}


def test_every_block_of_both_encoders_is_found() -> None:
    encoder: Any = tiny_vit_b().image_encoder
    assert replace_in_blocks(encoder, Around, Around) == len(encoder.blocks) == 2
    assert all(type(block.attn) is type(block.mlp) is Around for block in encoder.blocks)
    assert {block.attn.channels for block in encoder.blocks} == {16}
    assert replace_in_blocks(tiny_mobile().image_encoder, Around, Around) == 3
    assert replace_in_blocks(nn.Sequential(nn.Linear(2, 2)), Around, Around) == 0
