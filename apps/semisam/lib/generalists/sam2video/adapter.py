"""SAM 2.1 and MedSAM2 as generalists: features of a scan, structures followed through slices, answers to prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.device_memory import halved, within_memory
from lib.generalists.base import PromptKind
from lib.generalists.pace import Pace
from lib.generalists.slices import View, choose_views, mean_of_views, window
from lib.generalists.states import load_strictly

from .networks import make, place, random_state
from .session import Session
from .tracker import ABSENT, Piece, Tracker

__all__ = ["Sam2Video", "build", "random_state"]

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
MAX_SLICES = 36
"""Slices of a scan that are encoded for its features, all views together."""
MAX_CELLS = 32
"""Features along an axis at most."""


def _preprocessing(max_slices: int) -> str:
    return f"sam2video 3 slices={max_slices} cells={MAX_CELLS}"


PREPROCESSING = _preprocessing(MAX_SLICES)
"""What the features depend on beside scan and weights, for the key of the cache; see ``entries.Adapter``."""


class Sam2Video:
    """A video model that looks at a scan slice by slice.

    **Input.** The intensities' window is that of all slices together (0.5th to 99.5th percentile of what is above the
    minimum, see ``slices.window``), then ImageNet's mean and deviation. Every slice is stretched to the square
    image, whatever its proportions, as in MedSAM2's scripts (bicubic, without aliasing): so features cover it from edge
    to edge. A caller who wants true proportions pads slices to squares, as ``VideoPropagator`` does.

    **Features** are those of the last level, before any memory. Scans with thick slices are looked at in their
    acquisition plane, others in three planes whose features are averaged on a common grid (see ``choose_views``); not
    every slice is encoded, but those in the middle of slabs about as thick as a feature is wide.

    **Tracking** takes the steps of the published video predictor on features that are there already; hole filling is
    left out, as it needs an extension that is compiled for CUDA. All structures go through the network as one batch. A
    prompted slice takes part for all of them: where one has an empty mask, the network is told that it is not there.

    On a GPU the network computes in brain floats, as published, and pieces are kept as such in main memory. When the
    memory does not suffice, smaller batches (of slices, of structures) are taken from then on, and the log says so.

    Args:
        name: of the generalist.
        network: a ``SAM2Base`` on the CPU, with its weights; it is moved to ``device``.
        device: where to compute.
        batch: slices encoded at a time; by default 8 on a GPU and 1 elsewhere.
        max_slices: bound on the slices encoded for a scan's features.
    """

    prompts: frozenset[PromptKind] = frozenset({"points", "box", "mask"})

    def __init__(
        self,
        name: str,
        network: Any,
        device: str = "cpu",
        *,
        batch: int | None = None,
        max_slices: int = MAX_SLICES,
    ) -> None:
        self.name = name
        self.device = torch.device(device)
        place(network, self.device)
        self.network = network
        self.tracker = Tracker(network, self.device)
        self.batch = batch or (8 if self.device.type == "cuda" else 1)
        self.objects = 64
        """Structures tracked at a time."""
        self.max_slices = max_slices
        self.encoded = 0
        """Slices encoded so far."""
        self._pace = Pace(name, self.device, max_slices)

    @property
    def size(self) -> int:
        """Side of the network's image."""
        return int(self.network.image_size)

    @property
    def preprocessing(self) -> str:
        """What features depend on beside scan and weights, for the key of a cache."""
        return _preprocessing(self.max_slices)

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """Describe ``[1, D, H, W]`` by ``[C, d, h, w]`` on the CPU; see the class."""
        volume = window(image[0].detach().to("cpu", torch.float32))
        views = choose_views(spacing, "auto")
        extent = [n * s for n, s in zip(volume.shape, spacing, strict=True)]
        cell = max(extent) / MAX_CELLS
        grid = [min(n, max(1, round(e / cell))) for n, e in zip(volume.shape, extent, strict=True)]
        budget = max(1, self.max_slices // len(views))
        return mean_of_views(views, grid, lambda view: self._view_features(volume, view, grid[view.axis], budget))

    def open(self, image: Tensor, spacing: Sequence[float]) -> Session:
        """Get a scan ready for prompts; nothing is encoded before the first one."""
        return Session(self, window(image[0].detach().to("cpu", torch.float32)), spacing)

    def encode_slices(self, slices: Tensor) -> Sequence[Piece]:
        """Pieces for ``[S, H, W]``; see ``SliceTracker``.

        A slice is encoded by the first ``track`` that reaches it, and never again: the intensities' scale is that of
        all slices, while sequences may do with some of them.
        """
        return [Piece(image=image) for image in window(slices.detach().to("cpu", torch.float32))]

    @torch.no_grad()
    def encode_windowed(self, slices: Tensor) -> list[Piece]:
        """Encode slices ``[S, H, W]`` whose intensities are in 0..1 already.

        Raises:
            UserError: when the GPU's memory does not suffice for a single slice.
        """
        pieces: list[Piece] = []
        while len(pieces) < len(slices):
            some = slices[len(pieces) : len(pieces) + self.batch]
            with self._pace.watch(len(some)):
                levels = within_memory(partial(self._levels, some))
            if levels is None:
                self.batch = halved(self.name, self.device, len(some), "slices")
                continue
            # Copies: a view of one slice would keep the whole batch in memory.
            pieces += [Piece(tuple(level[n].clone() for level in levels)) for n in range(len(some))]
        self.encoded += len(slices)
        return pieces

    @torch.no_grad()
    def track(self, pieces: Sequence[object], masks: Mapping[int, Tensor], *, reverse: bool = False) -> Tensor:
        """Follow structures from the slices they are known on; see ``SliceTracker``.

        Args:
            pieces: the sequence, from ``encode_slices``.
            masks: by position, ``[K, h, w]`` boolean. Memory attention looks at all of them on every slice, so its
                time grows with their number.
            reverse: go from the last slice to the first.

        Returns:
            ``[S, K, m, m]`` float32 logits on the CPU, ``m`` a quarter of the image's side. On prompted slices they
            are the masks, as ±10. Slices not reached hold -1024.

        Raises:
            UserError: when the GPU's memory does not suffice for a single structure.
        """
        known = [piece for piece in pieces if isinstance(piece, Piece)]
        if len(known) != len(pieces):
            raise TypeError("pieces are not from encode_slices")
        if not masks:
            raise ValueError("there is no mask to start from")
        order = range(max(masks), -1, -1) if reverse else range(min(masks), len(pieces))
        self._encode([known[position] for position in order])
        side = self.size // 4
        count = len(next(iter(masks.values())))
        logits = torch.full((len(pieces), count, side, side), ABSENT)
        done = 0
        while done < count:
            chosen = slice(done, min(count, done + self.objects))
            part = {position: masks[position][chosen] for position in order if position in masks}
            if within_memory(partial(self._follow, known, part, order, logits[:, chosen])) is None:
                self.objects = halved(self.name, self.device, chosen.stop - chosen.start, "structures")
                continue
            done = chosen.stop
        return logits

    def half(self) -> AbstractContextManager[object]:
        """Brain floats on a GPU, single precision elsewhere."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def images(self, slices: Tensor) -> Tensor:
        """Slices ``[N, H, W]`` in 0..1 as the network wants them, ``[N, 3, size, size]`` on the device."""
        size = (self.size, self.size)
        images = functional.interpolate(slices.to(self.device)[:, None], size=size, mode="bicubic", antialias=True)
        images = images.clamp_(0, 1).expand(-1, 3, -1, -1)
        mean, deviation = (images.new_tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
        return (images - mean) / deviation

    def _levels(self, slices: Tensor) -> list[Tensor]:
        return self.image_levels(self.images(slices))

    @torch.no_grad()
    def image_levels(self, images: Tensor) -> list[Tensor]:
        """Features of normalised images ``[N, 3, size, size]`` at three levels, each ``[N, C, h, w]``, on the CPU."""
        with self.half():
            levels = self.network.forward_image(images.to(self.device))["backbone_fpn"]
        # Brain floats stay such; single precision stays exact. Half the memory matters where the scans are many.
        kept = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return [level.to("cpu", kept) for level in levels]

    def _encode(self, pieces: list[Piece]) -> None:
        """Encode those that are not."""
        waiting = [piece for piece in pieces if piece.levels is None]
        by_shape: dict[torch.Size, list[Piece]] = {}
        for piece in waiting:
            assert piece.image is not None
            by_shape.setdefault(piece.image.shape, []).append(piece)
        for alike in by_shape.values():
            images = torch.stack([piece.image for piece in alike if piece.image is not None])
            for piece, done in zip(alike, self.encode_windowed(images), strict=True):
                piece.levels, piece.image = done.levels, None

    def _follow(self, pieces: list[Piece], masks: Mapping[int, Tensor], order: range, logits: Tensor) -> bool:
        """Write the logits ``[S, K, m, m]`` of some structures in place."""
        with self.half():
            known = {position: self.tracker.from_mask(pieces[position], mask) for position, mask in masks.items()}
            steps = self.tracker.follow(pieces.__getitem__, len(pieces), known, order, reverse=order.step < 0)
            for position, found in steps:
                logits[position] = found.float().cpu()
        return True

    def _view_features(self, volume: Tensor, view: View, cells: int, budget: int) -> Tensor:
        """Features of one view, ``[C, d, h, w]``; along the slices the number of those looked at."""
        stack = view.stack(volume)
        chosen = min(len(stack), budget, cells)
        middle = [int((n + 0.5) * len(stack) / chosen) for n in range(chosen)]
        # One after the other: the finer levels of many slices would take gigabytes, and only the last is wanted.
        last = []
        for n in middle:
            levels = self.encode_windowed(stack[n : n + 1])[0].levels
            assert levels is not None
            last.append(levels[-1].float())
        return view.volume(torch.stack(last, dim=1))


def build(name: str, state: Mapping[str, Tensor], device: str = "cpu") -> Sam2Video:
    """Make the generalist ``name`` from the weights of its official file.

    Args:
        name: ``sam2_tiny``, ``sam2_small``, ``sam2_base_plus``, ``sam2_large`` or ``medsam2``.
        state: what the file holds under ``model``; it may be shared with the network afterwards.
        device: where to compute.

    Raises:
        UserError: when the state dict belongs to another network.
    """
    network = make(name)
    load_strictly(network, name, state)
    return Sam2Video(name, network, device)
