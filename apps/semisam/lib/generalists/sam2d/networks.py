"""Networks that encode an image once and answer prompts from its features.

Kirillov et al., "Segment Anything", ICCV 2023, https://arxiv.org/abs/2304.02643. The parts are those of the
``segment-anything`` package; only the assembly is ours, so that MobileSAM's encoder fits in, and so that a network
can be described without memory for its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch
from segment_anything.modeling import (  # type: ignore[import-untyped]
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from torch import Tensor, nn

from lib.generalists.states import load_strictly, random_like

from .tiny_vit import TinyViT


class SliceNetwork(Protocol):
    """What the adapter needs of a network.

    ``size`` is the side of its square images in pixels, ``patch`` the pixels a feature stands for; masks have four
    times the resolution of the features.
    """

    size: int
    patch: int

    def features(self, images: Tensor) -> Tensor:
        """Encode ``[B, 3, size, size]`` normalised images to ``[B, C, size / patch, size / patch]``."""
        ...

    def masks(
        self,
        features: Tensor,
        points: Tensor | None,
        positive: Tensor | None,
        box: Tensor | None,
        mask: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        """Answer the prompts of one structure on one image.

        Args:
            features: ``[C, g, g]`` of ``features``.
            points: clicks ``[P, 2]``: column and row in pixels; pixel centres are whole numbers.
            positive: ``[P]`` boolean, with ``points``.
            box: ``[4]``: first column, first row, last column, last row in pixels.
            mask: logits ``[4g, 4g]`` of an earlier answer.
            several: give three candidates (whole, part, subpart) in place of one.

        Returns:
            Logits ``[M, 4g, 4g]`` and how good the network believes each to be, ``[M]`` (about 0..1).
        """
        ...


class SamNetwork(nn.Module):
    """An image encoder with SAM's prompt encoder and mask decoder; keys are those of SAM's checkpoints.

    Args:
        image_encoder: ``[B, 3, size, size]`` to ``[B, channels, size / patch, size / patch]``.
        size: side of the images.
        patch: pixels a feature.
        channels: of the features; a multiple of 8.
    """

    def __init__(self, image_encoder: nn.Module, size: int = 1024, patch: int = 16, channels: int = 256) -> None:
        super().__init__()
        self.size, self.patch = size, patch
        grid = size // patch
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(
            embed_dim=channels, image_embedding_size=(grid, grid), input_image_size=(size, size), mask_in_chans=16
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=2048, num_heads=8),
            transformer_dim=channels,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )

    def features(self, images: Tensor) -> Tensor:
        """Features ``[N, C, g, g]`` of normalised, padded images ``[N, 3, size, size]``."""
        result: Tensor = self.image_encoder(images)
        return result

    def masks(
        self,
        features: Tensor,
        points: Tensor | None,
        positive: Tensor | None,
        box: Tensor | None,
        mask: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits ``[M, h, w]`` and their scores ``[M]`` for the prompts on one image."""
        clicks = None if points is None or positive is None else (points[None], positive.long()[None])
        sparse, dense = self.prompt_encoder(
            points=clicks,
            boxes=None if box is None else box[None],
            masks=None if mask is None else mask[None, None],
        )
        logits, scores = self.mask_decoder(
            image_embeddings=features[None],
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        return logits[0], scores[0]


def vit_b() -> SamNetwork:
    """SAM with ViT-B: 93.7 million weights."""
    encoder = ImageEncoderViT(
        depth=12,
        embed_dim=768,
        img_size=1024,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=12,
        patch_size=16,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=[2, 5, 8, 11],
        window_size=14,
        out_chans=256,
    )
    return SamNetwork(encoder)


def mobile() -> SamNetwork:
    """MobileSAM: 10.1 million weights."""
    return SamNetwork(TinyViT())


def lite() -> SamNetwork:
    """LiteMedSAM: 9.8 million weights. Its images have 256 pixels a side, its features are as many as MobileSAM's."""
    return SamNetwork(TinyViT(embedding=(1, 1), classifier=False), size=256, patch=4)


def load(make: Callable[[], SamNetwork], state: Mapping[str, Tensor], name: str) -> SamNetwork:
    """A network with the weights of ``state``, on the CPU in float32, frozen.

    Args:
        make: makes the network.
        state: flat state dict in the official layout. Float32 tensors are used as they are, not copied.
        name: the model's name, for the refusal.

    Raises:
        UserError: when keys or shapes are not exactly those of the network.
    """
    with torch.device("meta"):
        network = make()
    load_strictly(network, name, state)
    return network.eval()


def random_weights(make: Callable[[], SamNetwork], name: str, seed: int) -> dict[str, Tensor]:
    """Random weights of a network in the layout of its checkpoint; see ``random_like``."""
    with torch.device("meta"):
        like = make().state_dict()
    state = random_like({key: value.shape for key, value in like.items()}, name, seed)
    for key, value in like.items():
        if key.endswith("running_var"):
            state[key] = state[key].abs_().add_(1)
        elif not value.dtype.is_floating_point:
            state[key] = torch.zeros(value.shape, dtype=value.dtype)
    return state
