"""The whole 3D network: image encoder, prompt encoder, mask decoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .image_encoder import ImageEncoder
from .mask_decoder import MaskDecoder
from .prompt_encoder import PromptEncoder


@dataclass(frozen=True)
class Layout:
    """Sizes of the network; the defaults are those of the published models (``vit_b_ori``).

    Args:
        image: voxels of the input cube along each axis.
        patch: voxels of a patch along each axis.
        width: features of a token of the image encoder.
        depth: blocks of the image encoder.
        heads: attention heads of the image encoder.
        global_blocks: its blocks without padded window.
        window: tokens of the padded window of its other blocks, along each axis.
        channels: features of the grid, a multiple of 24.
        decoder_heads: attention heads of the mask decoder.
        decoder_hidden: hidden features of the mask decoder's feed-forward parts.
        judge: hidden features of the quality head.
    """

    image: int = 128
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    channels: int = 384
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    judge: int = 256

    @property
    def grid(self) -> int:
        """Features along each axis."""
        return self.image // self.patch

    @property
    def mask(self) -> int:
        """Mask logits along each axis."""
        return 4 * self.grid


class Sam3d(nn.Module):
    """Features of a cube, and masks in it from clicks and masks."""

    def __init__(self, layout: Layout | None = None) -> None:
        super().__init__()
        self.layout = sizes = layout or Layout()
        self.image_encoder = ImageEncoder(
            image=sizes.image,
            patch=sizes.patch,
            width=sizes.width,
            depth=sizes.depth,
            heads=sizes.heads,
            global_blocks=sizes.global_blocks,
            window=sizes.window,
            channels=sizes.channels,
        )
        self.prompt_encoder = PromptEncoder(channels=sizes.channels, grid=sizes.grid, image=sizes.image)
        self.mask_decoder = MaskDecoder(
            channels=sizes.channels, heads=sizes.decoder_heads, hidden=sizes.decoder_hidden, judge=sizes.judge
        )

    def encode(self, cubes: Tensor) -> Tensor:
        """Features of ``[B, 1, image, image, image]``: ``[B, channels, grid, grid, grid]``."""
        out: Tensor = self.image_encoder(cubes)
        return out

    def answer(
        self, features: Tensor, points: Tensor | None, positive: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Segment.

        Args:
            features: of ``encode``, ``[B, channels, grid, grid, grid]``.
            points: clicks ``[B, P, 3]`` in voxels of the cube, or None.
            positive: ``[B, P]``, whether they lie inside, or None.
            mask: logits so far ``[B, 1, mask, mask, mask]``, or None.

        Returns:
            Logits ``[B, 1, mask, mask, mask]`` and the predicted intersection over union ``[B, 1]``.
        """
        tokens, dense = self.prompt_encoder(points, positive, mask)
        logits, quality = self.mask_decoder(features, self.prompt_encoder.grid_positions(), tokens, dense)
        return logits, quality
