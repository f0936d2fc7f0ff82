"""The 2D U-Net and the tuned SAM that it prompts, as one specialist.

SC-SAM, equations 1 to 3: the U-Net segments a slice, points from its answer prompt SAM, SAM's answer counts. The U-Net
belongs to the network also after training, as SAM was never trained without its points. At inference the points are
spread evenly over the U-Net's structures, so that the same scan gets the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib.generalists.sam2d.adapter import MODELS, SliceModel
from lib.generalists.sam2d.networks import SamNetwork
from lib.generalists.sam2d.resized import resize_network
from lib.generalists.sam2d.tiny_vit import TinyViT
from lib.generalists.slices import View
from lib.specialists.networks.base import SpecialistNetwork
from lib.specialists.networks.unet2d import UNet2d
from lib.specialists.spec import SpecialistSpec

from .network import TunedSam
from .point_prompts import Points, points_of

_AT_ONCE = 8
"""Slices that SAM looks at together when nothing is learned."""
LEAST_SIZE = 64
"""Side of SAM's images at least, in pixels."""
MOST_GRID = 16
"""Features along a side at most: those of the paper's images of 256 pixels."""


@dataclass(frozen=True)
class SamKind:
    """Which SAM a network's name stands for.

    Args:
        model: architecture and intensities.
        pretrained: the published weights are the start.
    """

    model: SliceModel
    pretrained: bool


def small() -> SamNetwork:
    """A SAM to be trained from random weights: as MobileSAM, but narrower, flatter and with features twice as fine.

    2.2 million weights that also a CPU can train on the few slices that there are.
    """
    encoder = TinyViT((32, 64, 96, 128), (1, 1, 2, 1), (1, 2, 3, 4), (7, 7, 7, 7), (2, 1, 1), 128)
    return SamNetwork(encoder, size=128, patch=8, channels=128)


SAM_KINDS: Mapping[str, SamKind] = {
    "sam": SamKind(replace(MODELS["mobile_sam"], name="sam", make=small), pretrained=False),
    **{name: SamKind(model, pretrained=True) for name, model in MODELS.items()},
}
"""By name of the network."""


class SamSpecialist(SpecialistNetwork):
    """A U-Net for slices and the SAM that it prompts.

    Args:
        unet: ``[B, inputs, D, H, W]`` to logits ``[B, C, D, H, W]``.
        sam: segments slices.
        slice_axis: of the working grid, 0, 1 or 2.
        spacing: of the working grid in mm.
    """

    layout = torch.channels_last

    def __init__(
        self, unet: SpecialistNetwork, sam: TunedSam, slice_axis: int = 2, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    ) -> None:
        super().__init__()
        self.unet = unet
        self.sam = sam
        self.view = View(slice_axis)
        self.width = sam.classes
        _, row_mm, column_mm = self.view.sizes(spacing)
        self._pixel_mm = (row_mm, column_mm)

    def features(self, image: Tensor) -> Tensor:
        """SAM's logits; it has no common features of all classes, so these take their place."""
        return self.ask(image, self.unet(image).argmax(dim=1))

    def classify(self, features: Tensor) -> Tensor:
        """The same: ``features`` are the logits."""
        return features

    def ask(self, images: Tensor, classes: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """SAM's logits ``[B, C, D, H, W]``.

        Args:
            images: ``[B, inputs, D, H, W]``.
            classes: what the U-Net says about them, ``[B, D, H, W]`` integers.
            generator: draws the points; None spreads them evenly.
        """
        return self.answer(images, self.points(classes, generator))

    def points(self, classes: Tensor, generator: torch.Generator | None = None) -> Points:
        """The first half of ``ask``: points for all slices of all images, one image after the other."""
        return points_of(self.view.stack(classes).flatten(0, 1), self.width, generator=generator)

    def answer(self, images: Tensor, points: Points) -> Tensor:
        """The second half of ``ask``."""
        # [B, inputs, slices, rows, columns], then all slices of all images one after the other
        stack = self.view.stack(images).transpose(1, 2)
        slices = stack.flatten(0, 1)
        step = len(slices) if torch.is_grad_enabled() else _AT_ONCE
        parts = []
        for at in range(0, len(slices), step):
            parts.append(self.sam(slices[at : at + step], points.part(at, at + step), self._pixel_mm))
        logits = torch.cat(parts).unflatten(0, stack.shape[:2]).transpose(1, 2)
        return self.view.volume(logits)


def working_size(spec: SpecialistSpec, patch: int) -> int:
    """Side of SAM's images in pixels, so that its masks (four pixels a feature) are about as fine as the slices.

    Bounded by ``LEAST_SIZE`` and ``MOST_GRID``; a multiple of 32.

    Args:
        spec: the grid.
        patch: pixels a feature.
    """
    longest = max(spec.roi_size[axis] for axis in View(spec.slice_axis).plane)
    return min(max(LEAST_SIZE, 32 * -(-patch * longest // 128)), MOST_GRID * patch)


def build_sam(spec: SpecialistSpec, weights: Mapping[str, Tensor] | None = None) -> SamSpecialist:
    """A U-Net and its SAM, ``spec.network`` saying which.

    Args:
        spec: what they see; its ``network`` is one of ``SAM_KINDS``.
        weights: SAM's state dict in the official layout; None leaves it at random, for a checkpoint to be loaded.
    """
    kind = SAM_KINDS[spec.network]
    unet = UNet2d(spec.channels, spec.widths, spec.dropout, spec.inputs, spec.slice_axis)
    network: SamNetwork = kind.model.make()
    if weights is not None:
        network.load_state_dict(weights)
    resize_network(network, working_size(spec, network.patch))
    model = kind.model
    sam = TunedSam(network, spec.channels, model.mean, model.deviation, frozen=kind.pretrained)
    return SamSpecialist(unet, sam, spec.slice_axis, spec.spacing)
