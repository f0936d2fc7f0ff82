"""Who answers for the slices of a scan: a 2D foundation model, a 3D one, or a graph cut without weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lib.generalists import Generalist, unwrap
from lib.generalists.base import Promptable, Prompts, PromptSession
from lib.generalists.sam2d.adapter import SliceGeneralist
from lib.generalists.sam2d.asked import Asked
from lib.generalists.sam2d.single import SliceAnswers
from lib.generalists.slices import Canvas, View, window
from lib.training.scan_view import ScanView

from .prompts import SlicePrompt
from .slice_cut import CutOptions, cut_slice

_FEATURE_BYTES = 2**30
_FEATURE_CHANNELS = 256
"""Of SAM and its kin; kept in half precision."""


FOUNDATION_PACE = 5
"""Steps of a training for each question to a foundation model."""


class ScanAnswers(Protocol):
    """An opened scan that answers prompts on its slices."""

    def answer(self, view: View, prompts: Sequence[SlicePrompt]) -> Tensor:
        """Answer the prompts of one structure in one view.

        Args:
            view: which slices.
            prompts: on those slices that hold the structure, at least one, in the order of the slices; boxes and
                points in ``view``'s own rows and columns.

        Returns:
            Probability of the structure ``[D, H, W]`` in 0..1; 0 on slices without a prompt.
        """
        ...


class SliceAnswerer(Protocol):
    """Opens scans for prompts on their slices."""

    pace: int
    """Steps of a training for each question about a scan. It bounds what questions cost."""

    def open(self, scan: ScanView) -> ScanAnswers:
        """Open a scan for prompts in any view."""
        ...


def answerer_of(generalist: Generalist) -> SliceAnswerer:
    """How to ask a generalist: slice by slice if it is a 2D model, at once if it takes prompts in 3D.

    One that takes no prompts (MIND, say) is represented by a graph cut, which needs no weights.
    """
    model = unwrap(generalist)
    if isinstance(model, SliceGeneralist):
        return SliceModelAnswerer(model)
    return VolumeModelAnswerer(model) if isinstance(model, Promptable) else CutAnswerer()


class CutAnswerer:
    """Graph cuts of single slices; see ``slice_cut``.

    A question takes less than two steps of a training, so scans are asked more often than a foundation model is.

    Args:
        options: weights.
    """

    pace = 2

    def __init__(self, options: CutOptions | None = None) -> None:
        self.options = options or CutOptions()

    def open(self, scan: ScanView) -> CutAnswers:
        """Bring the intensities to 0..1."""
        return CutAnswers(window(scan.image[0].float()), self.options)


class CutAnswers:
    """A scan ``[D, H, W]`` in 0..1 for graph cuts."""

    def __init__(self, volume: Tensor, options: CutOptions) -> None:
        self._volume = volume
        self._options = options

    def answer(self, view: View, prompts: Sequence[SlicePrompt]) -> Tensor:
        """1 where a cut of any prompt's slice says so, 0 elsewhere; ``[D, H, W]``."""
        stack = view.stack(self._volume).numpy()
        found = np.zeros(stack.shape, dtype=np.float32)
        for prompt in prompts:
            answer = found[prompt.index]
            np.maximum(answer, cut_slice(stack[prompt.index], prompt, self._options), out=answer)
        return view.volume(torch.from_numpy(found))


class SliceModelAnswerer:
    """SAM, MedSAM and MobileSAM: each slice of each view by itself, as in the paper.

    Args:
        model: the 2D model.
    """

    pace = FOUNDATION_PACE

    def __init__(self, model: SliceGeneralist) -> None:
        self.model = model

    def open(self, scan: ScanView) -> SliceModelAnswers:
        """Bring the intensities to 0..1; slices are encoded when they are asked about."""
        return SliceModelAnswers(self.model, window(scan.image[0].float()), scan.spacing)


class SliceModelAnswers:
    """A scan ``[D, H, W]`` in 0..1 for a 2D model.

    A slice of a view is encoded once, however many structures are asked about: its features are kept until another
    view's turn, as far as there is memory.
    """

    def __init__(self, model: SliceGeneralist, volume: Tensor, spacing: Sequence[float]) -> None:
        self._model = model
        self._volume = volume
        self._spacing = spacing
        self._opened: tuple[View, SliceAnswers, Canvas] | None = None

    @torch.no_grad()
    def answer(self, view: View, prompts: Sequence[SlicePrompt]) -> Tensor:
        """The largest probability that any prompt gives, ``[D, H, W]``; each slice is asked by itself."""
        answers, canvas = self._open(view)
        found = torch.zeros(view.stack(self._volume).shape)
        indices = sorted({prompt.index for prompt in prompts})
        for prompt in prompts:
            low, high = (torch.tensor(end, dtype=torch.float32) for end in (prompt.low, prompt.high))
            count = len(prompt.points)
            asked = Asked(
                places=prompt.points.float(),
                slices=[prompt.index] * count,
                positive=torch.ones(count, dtype=torch.bool),
                rectangle=canvas.box(low, high),
                first=prompt.index,
                last=prompt.index,
                mask=None,
            )
            logits, _ = answers.decide(prompt.index, asked, None, ahead=[n for n in indices if n > prompt.index])
            answer = found[prompt.index]
            torch.maximum(answer, canvas.from_mask(logits).sigmoid(), out=answer)
        return view.volume(found)

    def _open(self, view: View) -> tuple[SliceAnswers, Canvas]:
        """The view's slices, with what is known of them."""
        if self._opened is None or self._opened[0] != view:
            stack = view.stack(self._volume).contiguous()
            canvas = self._model.canvas(self._volume.shape, self._spacing, view)
            pixel_mm = view.sizes(self._spacing)[1] * canvas.rows / canvas.height
            kept = _FEATURE_BYTES // (_FEATURE_CHANNELS * 2 * (canvas.size // canvas.patch) ** 2)
            self._opened = view, SliceAnswers(self._model, stack, canvas, pixel_mm, kept), canvas
        return self._opened[1:]


class VolumeModelAnswerer:
    """A model that takes prompts in 3D is asked once a view, with boxes and points of the view's slices.

    Args:
        model: the model.
        points: points that it gets, at most.
    """

    pace = FOUNDATION_PACE

    def __init__(self, model: Promptable, points: int = 10) -> None:
        self.model = model
        self.points = points

    def open(self, scan: ScanView) -> VolumeModelAnswers:
        """Encode the whole scan."""
        session = self.model.open(scan.image.float(), scan.spacing)
        return VolumeModelAnswers(session, scan.image.shape[1:], "box" in self.model.prompts, self.points)


class VolumeModelAnswers:
    """A scan of ``shape`` voxels, encoded by a 3D model."""

    def __init__(self, session: PromptSession, shape: Sequence[int], takes_box: bool, points: int) -> None:
        self._session = session
        self._shape = tuple(int(n) for n in shape)
        self._takes_box = takes_box
        self._points = points

    @torch.no_grad()
    def answer(self, view: View, prompts: Sequence[SlicePrompt]) -> Tensor:
        """The answer to all prompts at once, ``[D, H, W]``: some of their points, and one box around all boxes."""
        places = torch.cat([_placed(prompt.index, prompt.points) for prompt in prompts])
        # Spread over the slices: those of one slice lie together.
        chosen = places[torch.linspace(0, len(places) - 1, min(self._points, len(places))).round().long()]
        ends = torch.cat([_placed(p.index, torch.tensor([p.low, p.high])) for p in prompts])
        box = torch.stack([ends.amin(0), ends.amax(0)])
        points = _in_volume(chosen, view, self._shape)
        corners = _in_volume(box, view, self._shape)
        asked = Prompts(
            points=points,
            positive=torch.ones(len(points), dtype=torch.bool),
            box=torch.stack([corners.amin(0), corners.amax(0)]) if self._takes_box else None,
        )
        return self._session.segment(asked).float().cpu()


def _placed(index: int, pixels: Tensor) -> Tensor:
    """Rows and columns ``[P, 2]`` of a slice as slice, row, column ``[P, 3]``."""
    return torch.cat([torch.full((len(pixels), 1), index), pixels], dim=1)


def _in_volume(places: Tensor, view: View, shape: Sequence[int]) -> Tensor:
    """Slice, row, column ``[P, 3]`` as voxels ``[P, 3]`` float32 of a volume of ``shape``; undoes ``View.points``."""
    row, column = view.plane
    voxels = torch.zeros(len(places), 3)
    voxels[:, view.axis] = places[:, 0].float()
    voxels[:, row] = shape[row] - 1 - places[:, 1].float()
    voxels[:, column] = shape[column] - 1 - places[:, 2].float()
    return voxels
