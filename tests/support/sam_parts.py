"""SAMs of a few thousand weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT  # type: ignore[import-untyped]
from torch import nn

from lib.generalists.sam2d.adapter import MODELS, SliceModel
from lib.generalists.sam2d.networks import SamNetwork, random_weights
from lib.generalists.sam2d.tiny_vit import TinyViT
from lib.specialists.spec import SpecialistSpec

SIZE = 64
KINDS = ("sam", "sam_vit_b", "mobile_sam")


def tiny_vit_b() -> SamNetwork:
    """SAM's ViT: a block that looks into windows, and one that sees the whole image."""
    encoder = ImageEncoderViT(
        img_size=SIZE,
        patch_size=16,
        embed_dim=16,
        depth=2,
        num_heads=2,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        out_chans=32,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    return SamNetwork(encoder, size=SIZE, channels=32)


def tiny_mobile() -> SamNetwork:
    """MobileSAM."""
    return SamNetwork(TinyViT((8, 16, 16, 16), (1, 1, 1, 1), (1, 2, 2, 2), outer=32), size=SIZE, channels=32)


def tiny_small() -> SamNetwork:
    """The one without published weights."""
    encoder = TinyViT((8, 16, 16, 16), (1, 1, 1, 1), (1, 2, 2, 2), strides=(2, 1, 1), outer=32)
    return SamNetwork(encoder, size=SIZE, patch=8, channels=32)


MAKERS = dict(zip(KINDS, (tiny_small, tiny_vit_b, tiny_mobile), strict=True))


def tiny_model(name: str) -> SliceModel:
    """A 2D model whose network is small."""
    return replace(MODELS["mobile_sam" if name == "sam" else name], name=name, make=MAKERS[name])


def random_network(name: str, seed: int = 0) -> SamNetwork:
    """A network whose weights are all random, relative positions and running statistics included."""
    network = MAKERS[name]()
    network.load_state_dict(random_weights(MAKERS[name], name, seed))
    return network.eval()


def tiny_spec(name: str, **changes: object) -> SpecialistSpec:
    """For slices of 32 x 24 pixels and two structures."""
    spec = SpecialistSpec(("ball", "rod"), (4, 8), (1.0, 1.0, 1.0), (32, 24, 4), network=name)
    return replace(spec, **changes)  # type: ignore[arg-type]


def scan(batch: int = 2, inputs: int = 1, size: tuple[int, int, int] = (32, 24, 1), seed: int = 0) -> torch.Tensor:
    """Images ``[batch, inputs, *size]`` of noise."""
    return torch.randn(batch, inputs, *size, generator=torch.Generator().manual_seed(seed))
