"""SAM-Med3D and its descendants as generalists: features of a scan of any size, and answers to clicks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from lib.core.device_memory import halved, within_memory
from lib.core.intensity import without_outliers
from lib.core.resampling import resize
from lib.generalists.base import PromptKind
from lib.generalists.states import load_strictly, random_like

from .intensity import clamp_ct, normalise, statistics
from .network import Layout, Sam3d
from .session import Session
from .windows import Mosaic, cut, tile

_LOG = logging.getLogger(__name__)
SPACING = 1.5
"""Voxel size in mm that the published models were trained with."""


PREPROCESSING = "1.5 mm, CT +-1000, z over voxels above 0, cubes overlapping by a quarter; 2"
"""What the features depend on beside scan and weights, for the key of the cache; see ``entries.Adapter``."""


class SamMed3d:
    """A 3D promptable model on scans of any size, spacing and intensity.

    A scan is resampled to 1.5 mm, cut into cubes of 128 voxels, padded with zeros where it is smaller, and normalised
    to mean 0 and deviation 1 over the voxels above 0; CT is limited to ±1000 HU before (see ``intensity``).

    For features the mean is that of the whole scan, so that a tissue looks the same in every cube; cubes overlap by a
    quarter and are blended. For clicks it is that of the cube, as the models were trained.

    On a GPU the network computes in half precision, and once more in single precision if that overflows. When the
    memory does not suffice for a batch of cubes, smaller batches are taken from then on, and the log says so.

    Args:
        name: of the generalist.
        network: on the CPU, with its weights; it is moved to ``device``.
        device: where to compute.
        batch: cubes at a time; by default 8 on a GPU and 1 elsewhere.
    """

    prompts: frozenset[PromptKind] = frozenset({"points", "mask"})
    preprocessing = PREPROCESSING
    """Part of the key of cached features: to be changed with anything that changes what the network sees."""

    def __init__(self, name: str, network: Sam3d, device: str = "cpu", *, batch: int | None = None) -> None:
        self.name = name
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.batch = batch or (8 if self.device.type == "cuda" else 1)
        self.encoded = 0
        """Cubes encoded so far."""

    @property
    def layout(self) -> Layout:
        """Sizes of the network."""
        return self.network.layout

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """Describe a scan: ``[1, D, H, W]`` to ``[C, d, h, w]`` on the CPU, one place for each 24 mm or less."""
        working = self.resample(image, spacing)
        mean, deviation = statistics(working)
        sizes = self.layout
        shape = working.shape[1:]
        starts = tile(shape, sizes.image, sizes.image // 4)
        features = Mosaic(sizes.channels, [-(-n // sizes.patch) for n in shape], shape, sizes.image)
        done = 0
        while done < len(starts):
            some = starts[done : done + self.batch]
            cubes = torch.stack([normalise(cut(working, start, sizes.image), mean, deviation) for start in some])
            for start, values in zip(some, self.encode_cubes(cubes), strict=True):
                features.add(values, start)
            done += len(some)
        return features.result()

    def open(self, image: Tensor, spacing: Sequence[float]) -> Session:
        """Get a scan ready for prompts: ``[1, D, H, W]`` in canonical axes, spacing in mm. Encodes nothing yet."""
        return Session(self, self.resample(image, spacing), (image.shape[1], image.shape[2], image.shape[3]))

    def resample(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """A scan at the models' spacing, over the same extent: ``[1, D, H, W]`` to ``[1, D', H', W']`` float32."""
        known = clamp_ct(without_outliers(torch.nan_to_num(image.detach().to("cpu", torch.float32))))
        shape = [max(1, round(n * s / SPACING)) for n, s in zip(known.shape[1:], spacing, strict=True)]
        return resize(known, shape)

    @torch.inference_mode()
    def encode_cubes(self, cubes: Tensor) -> Tensor:
        """Features of normalised cubes: ``[N, 1, n, n, n]`` to ``[N, C, g, g, g]`` float32 on the CPU.

        Raises:
            UserError: when the GPU's memory does not suffice for a single cube.
        """
        pieces: list[Tensor] = []
        done = 0
        while done < len(cubes):
            some = cubes[done : done + self.batch]
            features = within_memory(partial(self._encode, some))
            if features is None:
                # A single cube that was left over from larger batches is tried once more.
                tried = max(len(some), min(self.batch, 2))
                self.batch = halved(self.name, self.device, tried, "cubes")
                continue
            pieces.append(features)
            done += len(some)
        self.encoded += len(cubes)
        return torch.cat(pieces)

    def _encode(self, cubes: Tensor) -> Tensor:
        """Features of cubes, on the CPU."""
        moved = cubes.to(self.device)
        with self._half():
            features = self.network.encode(moved).float()
        if not bool(features.isfinite().all()):
            _LOG.warning("%s: half precision overflowed, computing in single precision", self.name)
            features = self.network.encode(moved).float()
        return features.cpu()

    @torch.inference_mode()
    def answer(self, features: Tensor, points: Tensor | None, positive: Tensor | None, mask: Tensor | None) -> Tensor:
        """Mask logits in one cube, in single precision.

        Args:
            features: of the cube, ``[C, g, g, g]``.
            points: clicks ``[P, 3]`` in voxels of the cube, or None.
            positive: ``[P]`` boolean, or None.
            mask: logits so far ``[1, m, m, m]``, or None.

        Returns:
            Logits ``[1, m, m, m]`` on the CPU.
        """
        batch = [None if value is None else value[None].to(self.device) for value in (points, positive, mask)]
        logits, _ = self.network.answer(features[None].to(self.device), batch[0], batch[1], batch[2])
        return logits[0].float().cpu()

    def _half(self) -> AbstractContextManager[object]:
        # Half floats have three bits more than brain floats, and the activations stay far below their limit.
        return torch.autocast("cuda", torch.float16) if self.device.type == "cuda" else nullcontext()


def build(name: str, state: Mapping[str, Tensor], device: str = "cpu") -> SamMed3d:
    """Make the generalist ``name`` from the weights of its official file.

    Args:
        name: ``sam_med3d``, ``sam_med3d_turbo`` or ``segany_pet``; all have the same network.
        state: state dict, already taken out of the file; it may be shared with the network afterwards.
        device: where to compute.

    Raises:
        UserError: when the state dict belongs to another network.
    """
    with torch.device("meta"):
        network = Sam3d()
    load_strictly(network, name, state)
    return SamMed3d(name, network, device)


def random_state(name: str, seed: int, layout: Layout | None = None) -> dict[str, Tensor]:
    """Random weights of the true architecture, of a size that keeps activations in range, for tests without the file.

    Args:
        name: of the model; its letters are part of the seed, so that two models differ.
        seed: same seed, same weights.
        layout: of the network; the published one by default.
    """
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Sam3d(layout).state_dict().items()}
    return random_like(shapes, name, seed)
