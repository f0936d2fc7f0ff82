"""SAM 2's memory, run over features that are computed already.

The published predictor encodes every image anew in every pass, and keeps all it ever computed. This does the same steps
on given features: what is prompted becomes a lasting memory, what is tracked a passing one.

Ravi et al., "SAM 2", https://arxiv.org/abs/2408.00714, section 4 (memory attention, memory bank).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lib.upstream.sam2_memory import encode_memory

ABSENT = -1024.0
"""Logit of a structure that is not there, as in the published predictor."""
_LIMIT = 32.0
"""Logits that are fed back as a prompt are cut off here, as in the published predictor."""

Memory = dict[str, Any]
"""What the network remembers of a slice: its own dictionary of masks, features and pointers."""


@dataclass(eq=False)
class Piece:
    """A slice that is encoded, or will be when it is first looked at.

    Args:
        levels: features ``[C, h, w]`` at a quarter, an eighth and a sixteenth of the image's resolution, once encoded.
        image: ``[H, W]`` in 0..1, until it is encoded.
    """

    levels: tuple[Tensor, ...] | None = None
    image: Tensor | None = None


class Tracker:
    """Runs one network's memory.

    Args:
        network: a ``SAM2Base``.
        device: of the network.
    """

    def __init__(self, network: Any, device: torch.device) -> None:
        self._network = network
        self._device = device
        self._place: Tensor | None = None

    def from_mask(self, piece: Piece, masks: Tensor) -> Memory:
        """Remember a slice whose masks ``[K, h, w]`` (boolean) are known; an empty one says that there is nothing."""
        size = self._network.image_size
        known = masks[:, None].to(self._device, torch.float32)
        if known.shape[-2:] != (size, size):
            known = functional.interpolate(known, size=(size, size), mode="bilinear", antialias=True)
            known = (known >= 0.5).float()
        return self._prompted(piece, len(masks), mask_inputs=known)

    def from_points(self, piece: Piece, points: Tensor, kinds: Tensor, logits: Tensor | None) -> Memory:
        """Segment one structure on a slice after prompts, and remember it.

        Args:
            piece: the slice.
            points: ``[P, 2]`` as x, y in pixels of the image.
            kinds: ``[P]``: 1 inside, 0 outside, 2 and 3 upper left and lower right corner of a box (which come first).
            logits: what was found on it before, ``[h, w]`` at the resolution of the network's masks, or None.
        """
        before = None
        if logits is not None:
            before = logits[None, None].to(self._device, torch.float32).clamp(-_LIMIT, _LIMIT)
        prompt = {
            "point_coords": points[None].to(self._device, torch.float32),
            "point_labels": kinds[None].to(self._device, torch.int32),
        }
        return self._prompted(piece, 1, point_inputs=prompt, prev_sam_mask_logits=before)

    def follow(
        self,
        piece_at: Callable[[int], Piece],
        count: int,
        known: dict[int, Memory],
        order: Iterable[int],
        reverse: bool,
    ) -> Iterator[tuple[int, Tensor]]:
        """Go through a sequence.

        Args:
            piece_at: the sequence's pieces by position; asked for those that are tracked, one at a time.
            count: positions of the sequence.
            known: memories of the prompted positions; all take part, as in the published predictor.
            order: positions to go through; neighbours one after the other.
            reverse: whether ``order`` goes down.

        Yields:
            Position and logits ``[K, h, w]``, for prompted positions those of the prompt.
        """
        network = self._network
        passing: dict[int, Memory] = {}
        bank: dict[str, dict[int, Memory]] = {"cond_frame_outputs": known, "non_cond_frame_outputs": passing}
        objects = len(next(iter(known.values()))["pred_masks"])
        step = -1 if reverse else 1
        for position in order:
            if position in known:
                yield position, known[position]["pred_masks"][:, 0]
                continue
            out = self._step(piece_at(position), objects, position, False, bank, count, reverse, run_mem_encoder=True)
            out["maskmem_features"] = out["maskmem_features"].to(torch.bfloat16)
            # Further back only the small pointer is looked at, and later not even that.
            far = passing.get(position - step * (network.num_maskmem - 1))
            if far is not None:
                passing[position - step * (network.num_maskmem - 1)] = {"obj_ptr": far["obj_ptr"]}
            passing.pop(position - step * (network.max_obj_ptrs_in_encoder - 1), None)
            logits = out.pop("pred_masks")[:, 0]
            passing[position] = out
            yield position, logits

    def _prompted(self, piece: Piece, objects: int, **prompt: Any) -> Memory:
        bank: dict[str, dict[int, Memory]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        out = self._step(piece, objects, 0, True, bank, 1, False, run_mem_encoder=False, **prompt)
        size = self._network.image_size
        # The memory is made from the mask as it is shown, at the network's mask resolution.
        shown = functional.interpolate(out["pred_masks"], size=(size, size), mode="bilinear", align_corners=False)
        features, sizes, _ = self._features(piece, objects)
        memory, place = encode_memory(self._network, features, sizes, shown, out["object_score_logits"])
        out["maskmem_features"] = memory.to(torch.bfloat16)
        out["maskmem_pos_enc"] = place
        return out

    def _step(  # noqa: PLR0917 (SAM 2's)
        self,
        piece: Piece,
        objects: int,
        position: int,
        first: bool,
        bank: dict[str, dict[int, Memory]],
        count: int,
        reverse: bool,
        *,
        run_mem_encoder: bool,
        **prompt: Any,
    ) -> Memory:
        features, sizes, place = self._features(piece, objects)
        out: Memory = self._network.track_step(
            frame_idx=position,
            is_init_cond_frame=first,
            current_vision_feats=features,
            current_vision_pos_embeds=[place],
            feat_sizes=sizes,
            point_inputs=prompt.get("point_inputs"),
            mask_inputs=prompt.get("mask_inputs"),
            output_dict=bank,
            num_frames=count,
            track_in_reverse=reverse,
            run_mem_encoder=run_mem_encoder,
            prev_sam_mask_logits=prompt.get("prev_sam_mask_logits"),
        )
        kept = ("pred_masks", "obj_ptr", "object_score_logits", "maskmem_features", "maskmem_pos_enc")
        return {key: out[key] for key in kept}

    def _features(self, piece: Piece, objects: int) -> tuple[list[Tensor], list[tuple[int, int]], Tensor]:
        """Features ``[h * w, K, C]`` of a slice at each level, their sizes, and places for the last level."""
        assert piece.levels is not None
        levels = [level.to(self._device)[None] for level in piece.levels]
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        if self._place is None:
            self._place = self._network.image_encoder.neck.position_encoding(levels[-1]).flatten(2).permute(2, 0, 1)
        features = [level.expand(objects, -1, -1, -1).flatten(2).permute(2, 0, 1) for level in levels]
        return features, sizes, self._place.expand(-1, objects, -1)
