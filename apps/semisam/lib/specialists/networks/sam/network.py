"""A SAM that is tuned to a study: it segments all classes of slices, given points for each.

SC-SAM (Vu et al., "From specialist to generalist: unlocking SAM's learning potential on unlabeled medical images",
sections 2 and 3). What is tuned: adapters in the image encoder, a learned box prompt for each class, SAM's prompt
encoder and mask decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.generalists.sam2d.networks import SamNetwork
from lib.generalists.slices import Canvas
from lib.specialists.networks.upsample import upsample
from lib.upstream.sam_masks import corner_embeddings, first_masks

from .adapters import add_adapters
from .box_prompts import BoxPrompts
from .point_prompts import Points

_LOW, _HIGH = -2.0, 3.0
"""The specialist's intensities (mean 0, deviation 1) that become black and white."""

Colours = tuple[float, float, float]


class TunedSam(nn.Module):
    """Segments slices, all classes together.

    Args:
        network: SAM, at the image size to work at.
        classes: C, background included.
        mean: per colour, of the intensities 0..255 that the network expects, or None when it expects 0..1.
        deviation: per colour, likewise.
        frozen: the encoder is pretrained: it stays as it is and gets adapters. Without pretrained weights a frozen
            encoder would be a random projection, so it is trained as a whole, and adapters would have no purpose.
    """

    def __init__(
        self, network: SamNetwork, classes: int, mean: Colours | None, deviation: Colours | None, *, frozen: bool
    ) -> None:
        super().__init__()
        self.classes = classes
        self.frozen = frozen
        self.network = network.requires_grad_(True)
        # No part of a checkpoint: it belongs to the architecture.
        self.colours: Tensor | None
        self.register_buffer("colours", _table(mean, deviation), persistent=False)
        if frozen:
            add_adapters(network.image_encoder)
        channels: int = network.prompt_encoder.embed_dim
        self.boxes = BoxPrompts(classes, channels)
        # SAM's Fourier features of places are fixed numbers; masks as prompts are not used here.
        network.prompt_encoder.mask_downscaling.requires_grad_(False)

    def train(self, mode: bool = True) -> TunedSam:
        """As ``nn.Module.train``; a frozen encoder keeps its running statistics, too."""
        super().train(mode)
        if self.frozen:
            self.network.image_encoder.eval()
        return self

    def forward(self, slices: Tensor, points: Points, pixel_mm: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """Logits ``[N, C, rows, columns]``.

        Args:
            slices: ``[N, inputs, rows, columns]``, mean 0 and deviation 1.
            points: of the N slices and C classes.
            pixel_mm: height and width of a pixel, for true proportions.
        """
        number, _, rows, columns = slices.shape
        canvas = Canvas.of(rows, columns, *pixel_mm, self.network.size, self.network.patch)
        features = self.network.features(self.images(slices, canvas))
        sparse, dense = self._prompts(features, points, canvas)
        masks = self._decode(features, sparse, dense)
        high, wide = canvas.mask
        # The mask decoder answers for each class by itself: here the classes come together.
        masks = masks.view(number, self.classes, *masks.shape[1:])[..., :high, :wide].float()
        return upsample(masks, (rows, columns))

    def images(self, slices: Tensor, canvas: Canvas) -> Tensor:
        """Slices as the encoder expects them: colour images on the canvas, ``[N, 3, size, size]``.

        Red, green and blue are the first three inputs; of two, blue is their mean; a single one is grey.
        """
        number, inputs = slices.shape[:2]
        if inputs == 2:
            slices = torch.cat([slices, slices.mean(dim=1, keepdim=True)], dim=1)
        shown = slices[:, :3].float()
        scaled = canvas.scaled(shown.flatten(0, 1)).unflatten(0, (number, -1)).expand(-1, 3, -1, -1)
        light = ((scaled - _LOW) / (_HIGH - _LOW)).clamp(0, 1)
        if self.colours is not None:
            light = (light * 255 - self.colours[0]) / self.colours[1]
        return canvas.padded(light)

    def _prompts(self, features: Tensor, points: Points, canvas: Canvas) -> tuple[Tensor, Tensor]:
        """Tokens ``[N * C, T, channels]`` and the dense prompt ``[N * C, channels, g, g]``."""
        encoder = self.network.prompt_encoder
        # Sines of large numbers: half precision is not enough for places.
        with torch.autocast(features.device.type, enabled=False):
            places = points.pixels(canvas.height, canvas.width).float()
            clicks = (places.flatten(0, 1), points.kinds.flatten(0, 1))
            sparse, dense = encoder(points=clicks, boxes=None, masks=None)
            corners = corner_embeddings(encoder)
        boxes = torch.stack(self.boxes(features), dim=1).flatten(0, 1) + corners
        return torch.cat([sparse, boxes], dim=1), dense

    def _decode(self, features: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Mask logits ``[N * C, 4g, 4g]``."""
        source = features.repeat_interleave(self.classes, dim=0) + dense
        with torch.autocast(features.device.type, enabled=False):  # as in ``_prompts``
            place = self.network.prompt_encoder.get_dense_pe()
        return first_masks(self.network.mask_decoder, source, place, sparse)


def _table(mean: Colours | None, deviation: Colours | None) -> Tensor | None:
    """``[2, 3, 1, 1]``: mean and deviation per colour."""
    if mean is None or deviation is None:
        return None
    return torch.tensor([mean, deviation]).view(2, 3, 1, 1)
