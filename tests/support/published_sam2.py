"""SAM 2.1 as its package runs it, for comparison, and a network that is quick enough for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lib.generalists.sam2video import Sam2Video, random_state
from lib.generalists.sam2video.networks import make
from lib.generalists.states import load_strictly


def small_model(size: int = 128) -> Sam2Video:
    """MedSAM2's layers with random weights, for images of ``size`` pixels."""
    network = make("medsam2", size)
    load_strictly(network, "medsam2", random_state("medsam2", 3))
    return Sam2Video("medsam2", network)


class Published:
    """The package's own video predictor on the same weights: encodes anew in every pass, one structure at a time."""

    name = "published"

    def __init__(self, model: Sam2Video) -> None:
        from sam2.sam2_video_predictor import SAM2VideoPredictor  # type: ignore[import-untyped]

        self.model = model
        self.encoded = 0
        self.predictor: Any = object.__new__(SAM2VideoPredictor)
        self.predictor.__dict__.update(model.network.__dict__)
        self.predictor.__dict__.update(
            fill_hole_area=0,
            non_overlap_masks=False,
            clear_non_cond_mem_around_input=False,
            add_all_frames_to_correct_as_cond=False,
            forward_image=self._forward_image,
        )

    def _forward_image(self, image: Tensor) -> Any:
        self.encoded += len(image)
        return type(self.model.network).forward_image(self.model.network, image)

    def encode_slices(self, slices: Tensor) -> Sequence[object]:
        return self.model.encode_slices(slices)

    def track(self, pieces: Sequence[Any], masks: Mapping[int, Tensor], *, reverse: bool = False) -> Tensor:
        import sam2.sam2_video_predictor as package  # type: ignore[import-untyped]

        images = torch.cat([self.model.images(piece.image[None]) for piece in pieces])
        side = self.model.size // 4
        original = package.load_video_frames
        package.load_video_frames = lambda **_: (images, side, side)
        try:
            state = self.predictor.init_state("")
        finally:
            package.load_video_frames = original
        count = len(next(iter(masks.values())))
        for position, mask in masks.items():
            for number in range(count):
                self.predictor.add_new_mask(state, position, number, mask[number])
        logits = torch.full((len(pieces), count, side, side), -1024.0)
        start = max(masks) if reverse else min(masks)
        for position, _, found in self.predictor.propagate_in_video(state, start, reverse=reverse):
            logits[position] = found[:, 0]
        return logits
