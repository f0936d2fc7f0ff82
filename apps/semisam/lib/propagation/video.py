"""Propagation by a video model: SSL-MedSAM2's training-free few-shot branch.

Gong & Chen, "SSL-MedSAM2", MICCAI 2025 CARE challenge, section 2.2 and algorithm 2 (TFFS-MedSAM2): the labelled scan is
inserted at R random places of the other scan's slices, its masks are the prompts, and the model's memory carries the
structures to the slices on either side; the mean of the R probability maps counts. The paper leaves R open. Here also
the largest component of each label is kept, which the paper does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import label as components
from torch import Tensor
from torch.nn import functional

from lib.core.errors import UserError
from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.generalists import unwrap
from lib.generalists.base import Generalist, SliceTracker
from lib.generalists.slices import View, acquisition_view

from .base import SoftLabels, Template

_PIXELS = 512
"""Side of the canvas that slices are laid on, at most: what MedSAM2 sees."""
_RESULT_PIXELS = 256
"""Side of the canvas that results are given for, at most: masks of these models have 128 or 256 pixels."""


@dataclass(frozen=True)
class VideoPropagator:
    """Follow structures from the template's slices through the scan's.

    **Slices.** Both scans are turned to the same axes (RAS), so that slices follow each other in the same order, and
    cut along the same axis: the one along which voxels are thickest in both together, axial if there is a choice. A
    slice is laid in the middle of a square canvas, whose side in mm is the longest in-plane extent of the two scans: a
    millimetre is equally long in both scans and both directions. Labelled slices are as far apart as the scan's.

    **What differs from the published code.** All labels go at once. The encoder sees each slice once; that code encodes
    anew for each insertion and direction. Of the labelled scan only ``prompts`` slices are inserted, spread evenly over
    those that show a structure (and one more for each structure that would be missed): the model looks at all prompted
    slices on each slice it labels, so that its time grows with their number, and neighbours say nearly the same.
    ``prompts=0`` inserts the whole labelled scan and prompts every slice that shows a structure, as published.

    Confidence is the probability of a voxel's label times the share of insertions that agree on it.

    Args:
        insertions: random places, R in the paper.
        prompts: labelled slices given to the model; 0 for all.
        slices: slices of a scan at most; those of scans with more are averaged.
        threshold: probability from which on a voxel belongs to a structure.
        seed: of the places.
    """

    name = "video"
    insertions: int = 5
    prompts: int = 8
    slices: int = 48
    threshold: float = 0.5
    seed: int = 0

    @torch.no_grad()
    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        """Label ``scan`` after ``template``; see ``Propagator``.

        Raises:
            UserError: when the generalist cannot follow structures through slices.
        """
        tracker = unwrap(generalist)
        if not isinstance(tracker, SliceTracker):
            raise UserError(
                f"The propagator 'video' needs a generalist that follows structures through slices, and "
                f"{generalist.name!r} does not. Choose sam2_tiny, sam2_small, sam2_base_plus, sam2_large or medsam2 "
                "as generalist, or another propagator."
            )
        own, other = frame_of(scan), frame_of(template.scan)
        both = [a * b for a, b in zip(own.spacing, other.spacing, strict=True)]
        view = acquisition_view(both)
        side = max(max(view.sizes(frame.extent)[1:]) for frame in (own, other))
        finest = min(min(view.sizes(frame.spacing)[1:]) for frame in (own, other))
        step = view.sizes(own.extent)[0] / min(self.slices, own.shape[view.axis])
        canvas = _Canvas(view, side, step, max(1, min(_PIXELS, round(side / finest))), self.slices)

        labels = [value for value in range(1, channels) if bool((template.label == value).any())]
        result = canvas.frame(own, _RESULT_PIXELS)
        if not labels:
            return _nothing(result, channels, template.name)
        known = canvas.masks(other, template.label, labels)
        inserted, prompted = self._inserted(known)
        pieces = list(tracker.encode_slices(canvas.images(own, scan.clipped)))
        # All of them, as the intensities' scale is that of the whole scan.
        every = tracker.encode_slices(canvas.images(other, template.scan.clipped))
        given = [every[at] for at in inserted]
        maps = self._maps(pieces, given, {at: known[inserted[at]] for at in prompted}, tracker)
        return self._joined(maps, labels, canvas, result, channels, template.name)

    def _inserted(self, known: Tensor) -> tuple[list[int], list[int]]:
        """Which labelled slices are inserted, and which of these are prompted, for masks ``[S, K, h, w]``."""
        shown = known.flatten(1).any(1).nonzero()[:, 0].tolist()
        if not self.prompts:
            return list(range(len(known))), shown
        count = min(self.prompts, len(shown))
        # The first and the last slice of a structure show least of it: the middles of equal parts show more.
        chosen = {shown[int((n + 0.5) * len(shown) / count)] for n in range(count)}
        areas = known.sum((2, 3))
        for area in areas.T:
            if not bool(area[sorted(chosen)].any()):  # a structure on few slices
                chosen.add(int(area.argmax()))
        return sorted(chosen), list(range(len(chosen)))

    def _maps(
        self, pieces: list[object], given: list[object], masks: dict[int, Tensor], generalist: SliceTracker
    ) -> list[Tensor]:
        """Probabilities ``[S, K, m, m]`` for each place of insertion."""
        maps = []
        for place in self._places(len(pieces)):
            sequence = pieces[:place] + given + pieces[place:]
            prompts = {place + at: mask for at, mask in masks.items()}
            # Each slice is reached in one direction: those before the insertion backward, those after it forward.
            found = []
            if place > 0:
                found.append(generalist.track(sequence, prompts, reverse=True)[:place])
            if place < len(pieces):
                found.append(generalist.track(sequence, prompts)[place + len(given) :])
            maps.append(torch.cat(found).sigmoid())
        return maps

    def _places(self, count: int) -> list[int]:
        """Different places among ``count`` slices: 0 is before the first, ``count`` after the last."""
        random = np.random.default_rng(self.seed)
        chosen = random.choice(count + 1, size=min(self.insertions, count + 1), replace=False)
        return sorted(int(place) for place in chosen)

    def _joined(
        self, maps: Sequence[Tensor], labels: list[int], canvas: _Canvas, frame: Frame, channels: int, name: str
    ) -> SoftLabels:
        """Soft labels from the probabilities of each insertion."""
        mean = torch.stack(list(maps)).mean(0)
        voted = _decide(mean, self.threshold)
        votes = torch.stack([_decide(one, self.threshold) for one in maps])
        agreement = (votes == voted).float().mean(0)

        chance = canvas.back(mean.transpose(0, 1), frame)
        decided = _decide(chance.transpose(0, 1), self.threshold)
        for number in range(len(labels)):
            inside = (decided == number + 1).numpy()
            chance[:, torch.from_numpy(inside & ~_largest(inside))] = 0
        probabilities = chance.new_zeros((channels, *chance.shape[1:]))
        probabilities[labels] = chance
        # The background is as likely as the best structure where that is exactly as likely as the threshold.
        best = chance.amax(0)
        odds = self.threshold / (1 - self.threshold)
        probabilities[0] = (1 - best) * odds
        probabilities /= probabilities.sum(0, keepdim=True)

        agreed = canvas.back(agreement[None], frame)[0]
        structures = agreement[(votes > 0).any(0)]
        return SoftLabels(
            frame=frame,
            probabilities=canvas.view.volume(probabilities),
            confidence=canvas.view.volume(probabilities.amax(0) * agreed).clamp_(0, 1),
            templates=(name,),
            similarity=float(structures.mean()) if structures.numel() else 0.0,
        )


@dataclass(frozen=True)
class _Canvas:
    """The square that slices of both scans are laid on.

    Args:
        view: the slices' plane.
        side: of the square in mm.
        step: from slice to slice in mm.
        pixels: along a side, for what the model sees.
        most: slices of a scan at most.
    """

    view: View
    side: float
    step: float
    pixels: int
    most: int

    def frame(self, own: Frame, pixels: int) -> Frame:
        """A scan's grid with the canvas' distance of slices, and in the plane no finer than ``pixels`` to its side."""
        shape = [0, 0, 0]
        whole = own.shape[self.view.axis]
        shape[self.view.axis] = max(1, min(whole, self.most, round(own.extent[self.view.axis] / self.step)))
        for axis in self.view.plane:
            shape[axis] = max(1, min(own.shape[axis], round(own.extent[axis] / self.side * pixels)))
        return own.with_shape(shape)

    def images(self, own: Frame, array: np.ndarray) -> Tensor:
        """A scan's slices on the canvas ``[S, pixels, pixels]``, its darkest value around them."""
        frame = self.frame(own, self.pixels)
        stack = self.view.stack(frame.image(array))
        darkest = stack.min()
        return self._laid(stack - darkest, own)[0] + darkest

    def masks(self, own: Frame, label: np.ndarray, labels: list[int]) -> Tensor:
        """Masks of a scan's structures on the canvas ``[S, K, pixels, pixels]``, boolean; each voxel has one label."""
        frame = self.frame(own, self.pixels)

        def share(value: int) -> Tensor:
            inside = (label == value).astype(np.uint8)
            return self._laid(self.view.stack(frame.one_hot(inside, 2)[1:]), own)[0]

        best = 1 - self._laid(self.view.stack(frame.one_hot((label > 0).astype(np.uint8), 2)[1:]), own)[0]
        winner = torch.zeros(best.shape, dtype=torch.uint8)
        for value in labels:  # one at a time: there may be many, and slices are large
            here = share(value)
            winner[here > best] = value
            best = torch.maximum(best, here)
        masks = torch.stack([winner == value for value in labels], dim=1)
        for number, value in enumerate(labels):
            if not bool(masks[:, number].any()):  # smaller than a voxel of this grid
                here = share(value)
                masks[:, number] = here >= 0.5 * here.max()
        return masks

    def back(self, values: Tensor, frame: Frame) -> Tensor:
        """Values on the canvas ``[C, S, m, m]`` to a frame's slices ``[C, S, rows, columns]``."""
        _, rows, columns = self.view.sizes(frame.shape)
        _, high, wide = self.view.sizes(frame.extent)
        return _sampled(values, (int(rows), int(columns)), (high / self.side, wide / self.side))

    def _laid(self, stack: Tensor, own: Frame) -> Tensor:
        _, high, wide = self.view.sizes(own.extent)
        return _sampled(stack, (self.pixels, self.pixels), (self.side / high, self.side / wide))


def _sampled(values: Tensor, shape: tuple[int, int], scale: tuple[float, float]) -> Tensor:
    """``[C, S, h, w]`` on another grid of ``shape`` with the same middle, ``scale`` times as large; 0 outside."""
    axes = [(torch.arange(n) * 2 + 1) / n - 1 for n in shape]
    rows, columns = torch.meshgrid(axes[0] * scale[0], axes[1] * scale[1], indexing="ij")
    # Up to the edge of the outermost pixels all is inside: interpolation there would mix in what lies outside.
    inside = (rows.abs() <= 1) & (columns.abs() <= 1)
    grid = torch.stack([columns, rows], dim=-1)[None].expand(values.shape[1], -1, -1, -1)
    sampled = functional.grid_sample(values.transpose(0, 1), grid, padding_mode="border", align_corners=False)
    return (sampled * inside).transpose(0, 1)


def _decide(chances: Tensor, threshold: float) -> Tensor:
    """The label ``[S, h, w]`` in 0..K after probabilities ``[S, K, h, w]``."""
    best, number = chances.max(1)
    return torch.where(best > threshold, number + 1, 0)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask ``[S, h, w]``, corners connecting."""
    numbered, count = components(mask, generate_binary_structure(3, 3))
    if count <= 1:
        return mask
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    kept: np.ndarray = numbered == sizes.argmax()
    return kept


def _nothing(frame: Frame, channels: int, name: str) -> SoftLabels:
    """All background, not to be trusted."""
    probabilities = torch.zeros((channels, *frame.shape))
    probabilities[0] = 1
    return SoftLabels(frame, probabilities, torch.zeros(frame.shape), (name,), 0.0)
