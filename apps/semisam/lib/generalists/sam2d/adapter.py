"""SAM, MedSAM, MobileSAM and LiteMedSAM as generalists for volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lib.core.device_memory import halved, within_memory
from lib.core.errors import UserError
from lib.generalists.base import PromptKind
from lib.generalists.pace import Pace
from lib.generalists.slices import Canvas, View, Views, choose_views, mean_of_views, window

from .networks import SamNetwork, SliceNetwork, lite, load, mobile, random_weights, vit_b
from .session import SliceSession

MAX_SLICES = 36
"""Slices of a scan that are encoded for its features, all views together."""


@dataclass(frozen=True)
class SliceModel:
    """What tells one 2D model from another.

    Args:
        name: of the generalist.
        make: makes the network.
        prompts: what its mask decoder was trained with. Other prompts are translated: see ``SliceSession``.
        mean: per colour, of the intensities 0..255 that the network expects, or None when it expects 0..1.
        deviation: per colour, likewise.
        min_score: an answer on a neighbouring slice that the network gives less than this is not believed, 0..1.
        stretch: each slice reaches from 0 to 1, however bright it is.
    """

    name: str
    make: Callable[[], SamNetwork]
    prompts: frozenset[PromptKind]
    mean: tuple[float, float, float] | None
    deviation: tuple[float, float, float] | None
    min_score: float
    stretch: bool = False


_ALL: frozenset[PromptKind] = frozenset({"points", "box", "mask"})
_BOX: frozenset[PromptKind] = frozenset({"box"})
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MODELS = {
    model.name: model
    for model in (
        SliceModel("sam_vit_b", vit_b, _ALL, _MEAN, _DEVIATION, 0.5),
        SliceModel("mobile_sam", mobile, _ALL, _MEAN, _DEVIATION, 0.5),
        # MedSAM's training had no use for the predicted score, so it says nothing (Ma et al., "Segment anything in
        # medical images", Nature Communications 2024, https://doi.org/10.1038/s41467-024-44824-z).
        # Its published inference stretches each slice, as LiteMedSAM's does.
        SliceModel("medsam", vit_b, _BOX, None, None, 0.0, stretch=True),
        # Distilled from MedSAM: the branch LiteMedSAM of https://github.com/bowang-lab/MedSAM.
        SliceModel("lite_medsam", lite, _BOX, None, None, 0.0, stretch=True),
    )
}
"""By name."""


def _preprocessing(views: Views, max_slices: int) -> str:
    return f"sam2d 4 views={views} slices={max_slices}"


PREPROCESSING = _preprocessing("auto", MAX_SLICES)
"""What the features depend on beside scan and weights, for the key of the cache; see ``entries.Adapter``."""


class SliceGeneralist:
    """A 2D model that looks at slices of a volume.

    Intensities are windowed for the whole scan (``slices.window``), so that a tissue looks the same on every slice; CT
    by level and width.
    Each slice is resized, in true proportions, to the network's image (``slices.Canvas``).

    Features: scans with thick slices are looked at in their acquisition plane, others in three planes
    (``slices.choose_views``), whose features are averaged on a common grid: SAM's features are normalised place by
    place, so that views count alike, and the mean has the channels of one view. Encoding a slice is expensive (ViT-B:
    seconds on a CPU), and features are coarse in a slice; so not every slice is encoded, but one of each slab as thick
    as a feature is wide, the slice in its middle, and never more than ``max_slices`` in all. The grid is no finer than
    the scan's voxels.

    Answers to prompts: see ``SliceSession``.

    Args:
        model: what the network expects.
        network: on ``device``.
        device: ``cuda`` computes the encoder in half precision, and in float32 what leaves its range.
        views: which views to look at for features.
        max_slices: bound on the slices encoded for a scan's features.
        batch: slices encoded at a time; by default 8 on CUDA, 1 on a CPU. Halved, for good, when memory runs out.
    """

    colours = True
    """``open`` also takes images in colour."""
    slicewise = True
    """Its sessions are ``SliceSession``: they can better another's answer slice by slice."""

    def __init__(
        self,
        model: SliceModel,
        network: SliceNetwork,
        device: str = "cpu",
        *,
        views: Views = "auto",
        max_slices: int = MAX_SLICES,
        batch: int | None = None,
    ) -> None:
        self.name = model.name
        self.prompts = model.prompts
        self.model = model
        self.network = network
        self.device = torch.device(device)
        self.views = views
        self.max_slices = max_slices
        self.batch = batch or (8 if self.device.type == "cuda" else 1)
        self.encoded = 0
        """Slices encoded so far."""
        self._pace = Pace(self.name, self.device, max_slices)

    @property
    def min_score(self) -> float:
        """An answer on a neighbouring slice that the network gives less than this is not believed, 0..1."""
        return self.model.min_score

    @property
    def preprocessing(self) -> str:
        """What features depend on beside scan and weights, for the key of a cache."""
        return _preprocessing(self.views, self.max_slices)

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """Describe ``[1, D, H, W]`` by ``[C, d, h, w]`` on the CPU; see the class."""
        volume = window(image[0].float().cpu())
        views = choose_views(spacing, self.views)
        budget = max(1, self.max_slices // len(views))
        grid = self._grid(volume.shape, spacing)
        return mean_of_views(views, grid, lambda view: self._view_features(volume, spacing, view, budget))

    def open(self, image: Tensor, spacing: Sequence[float]) -> SliceSession:
        """Get a scan ready for prompts; nothing is encoded before the first one.

        Args:
            image: ``[1, D, H, W]``; or ``[3, D, H, W]`` in colour: red, green and blue in 0..255, taken as they are.
            spacing: voxel size in mm.
        """
        image = image.float().cpu()
        return SliceSession(self, window(image[0]) if len(image) == 1 else (image / 255).clamp(0, 1), spacing)

    def canvas(self, shape: Sequence[float], spacing: Sequence[float], view: View) -> Canvas:
        """The canvas of a volume's slices."""
        _, rows, columns = view.sizes(shape)
        _, row_mm, column_mm = view.sizes(spacing)
        return Canvas.of(int(rows), int(columns), row_mm, column_mm, self.network.size, self.network.patch)

    def embed(self, slices: Tensor, canvas: Canvas) -> Tensor:
        """Features of slices: ``[N, C, g, g]`` float32 on the device, with padding.

        Args:
            slices: ``[N, rows, columns]``, or ``[N, 3, rows, columns]`` in colour, in 0..1.
            canvas: what they lie on.

        Raises:
            UserError: when the GPU's memory does not suffice for a single slice.
        """
        done: list[Tensor] = []
        at = 0
        while at < len(slices):
            part = slices[at : at + self.batch]
            with self._pace.watch(len(part)):
                features = within_memory(partial(self._encoded, part, canvas))
            if features is None:
                self.batch = halved(self.name, self.device, len(part), "slices")
                continue
            done.append(features)
            at += len(part)
            self.encoded += len(part)
        return torch.cat(done)

    def _encoded(self, slices: Tensor, canvas: Canvas) -> Tensor:
        """Features of slices in 0..1."""
        return self._features(self._images(slices, canvas))

    def _images(self, slices: Tensor, canvas: Canvas) -> Tensor:
        """Slices in 0..1 as normalised, padded colour images ``[N, 3, size, size]``."""
        if slices.ndim == 3:
            slices = slices[:, None]
        scaled = canvas.scaled(slices.to(self.device).flatten(0, 1)).unflatten(0, slices.shape[:2])
        if self.model.stretch:
            low, high = scaled.amin((1, 2, 3), keepdim=True), scaled.amax((1, 2, 3), keepdim=True)
            scaled = (scaled - low) / (high - low).clamp_min(1e-6)  # a slice of one value stays 0
        images = scaled.expand(-1, 3, -1, -1)
        if self.model.mean is not None and self.model.deviation is not None:
            mean, deviation = (images.new_tensor(v).view(3, 1, 1) for v in (self.model.mean, self.model.deviation))
            images = (images * 255 - mean) / deviation
        return canvas.padded(images)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        if self.device.type == "cuda":
            with torch.autocast("cuda", torch.float16):
                features = self.network.features(images).float()
            if bool(torch.isfinite(features).all()):
                return features
        return self.network.features(images)

    def _grid(self, shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
        """Features along the axes of a volume: cubic cells, the longest axis in full, no finer than the voxels."""
        extent = [n * s for n, s in zip(shape, spacing, strict=True)]
        cell = max(extent) * self.network.patch / self.network.size
        return [min(n, max(1, round(e / cell))) for n, e in zip(shape, extent, strict=True)]

    def _view_features(self, volume: Tensor, spacing: Sequence[float], view: View, budget: int) -> Tensor:
        """Features of one view, ``[C, d, h, w]``; along the slices the number of those looked at."""
        canvas = self.canvas(volume.shape, spacing, view)
        stack = view.stack(volume)
        count = len(stack)
        step_mm, row_mm, column_mm = view.sizes(spacing)
        cell_mm = max(canvas.rows * row_mm, canvas.columns * column_mm) * canvas.patch / canvas.size
        chosen = min(count, budget, max(1, round(count * step_mm / cell_mm)))
        middle = [int((n + 0.5) * count / chosen) for n in range(chosen)]
        high, wide = canvas.grid
        parts, step = [], self.batch  # the batch may shrink on the way
        for at in range(0, chosen, step):
            parts.append(self.embed(stack[middle[at : at + step]], canvas)[..., :high, :wide].cpu())
        return view.volume(torch.cat(parts).transpose(0, 1))


def build(
    name: str,
    state: Mapping[str, Tensor],
    device: str = "cpu",
    *,
    views: Views = "auto",
    max_slices: int = MAX_SLICES,
) -> SliceGeneralist:
    """The generalist ``name`` with the weights of its official checkpoint.

    Args:
        name: one of ``MODELS``.
        state: flat state dict; every key and shape has to fit.
        device: as PyTorch names it.
        views: see ``SliceGeneralist``.
        max_slices: see ``SliceGeneralist``.

    Raises:
        UserError: when the state dict is that of another model.
    """
    model = _model(name)
    network = load(model.make, state, name).to(device)
    return SliceGeneralist(model, network, device, views=views, max_slices=max_slices)


def random_state(name: str, seed: int) -> dict[str, Tensor]:
    """Random weights of the model's true architecture in the layout of its official checkpoint (a flat dict)."""
    return random_weights(_model(name).make, name, seed)


def _model(name: str) -> SliceModel:
    if name not in MODELS:
        raise UserError(f"There is no 2D model {name!r}. Known: {', '.join(MODELS)}.")
    return MODELS[name]
