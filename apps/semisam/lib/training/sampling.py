"""Two streams of training windows: scans with a human label, and scans with a pseudo-label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lib.specialists.augment import Augmentation

from .sample import Sample
from .samples_on_device import OnDevice

_AIMED = 0.7
"""Share of windows that are centred at a structure, where a scan is larger than the window."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows of one step.

    Args:
        images: ``[B, inputs, *size]``.
        targets: ``[B, 1 + N, *size]``.
        weights: ``[B, 1, *size]``.
        labelled: ``[B]`` boolean: whether the label is a human's. Always on the CPU: reading it there takes no waiting.
        extra: ``[B, K, *size]``; K is 0 where the samples bring no further maps.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    labelled: Tensor
    extra: Tensor

    def split(self, most: int) -> list[Batch]:
        """The same windows in batches of ``most`` at most."""
        if len(self.images) <= most:
            return [self]
        pieces = [value.split(most) for value in vars(self).values()]
        return [Batch(*each) for each in zip(*pieces, strict=True)]


class SampleSource(Protocol):
    """Gives the samples by name."""

    def human(self) -> Sequence[str]:
        """Names of scans with a human label."""
        ...

    def pseudo(self) -> Sequence[str]:
        """Names of scans with a pseudo-label that is of use."""
        ...

    def sample(self, name: str) -> Sample:
        """The scan ``name``."""
        ...


@dataclass(frozen=True)
class WindowOptions:
    """How windows are drawn.

    Args:
        batch: windows in a batch.
        human_share: share of the windows taken from human labels, over many batches.
        augmentation: random changes.
    """

    batch: int
    human_share: float
    augmentation: Augmentation


class TwoStreams:
    """Draws batches without end.

    Each stream runs through all its scans in random order before it repeats one.

    Args:
        source: the scans.
        size: voxels of a window.
        options: how windows are drawn.
        generator: source of the random numbers (CPU).
        device: where the windows are cut: ``cpu`` or ``cuda[:n]``.
    """

    def __init__(
        self,
        source: SampleSource,
        size: Sequence[int],
        options: WindowOptions,
        generator: torch.Generator,
        device: str = "cpu",
    ) -> None:
        self._source = source
        self._there = OnDevice(device)
        self._size = tuple(size)
        self._augmentation = options.augmentation
        self._generator = generator
        self._streams = (list(source.human()), list(source.pseudo()))
        self._left: tuple[list[str], list[str]] = ([], [])
        if all(self._streams):
            self._human_share = options.human_share
        else:
            self._human_share = 1.0 if self._streams[0] else 0.0
        self._batch = options.batch
        self._owed = 0.0

    def draw(self) -> Batch:
        """The next batch, windows with a human label first; the images lie channels last."""
        windows = []
        for _ in range(self._batch):
            # Over many batches the share is exact, also where it is less than one window of a batch.
            self._owed += self._human_share
            stream = 0 if self._owed >= 1.0 - 1e-9 else 1
            self._owed -= 1 - stream
            windows.append((self._window(self._next(stream)), stream == 0))
        # So that each kind is a slice of the batch, which is a view; any other selection would be a copy.
        windows.sort(key=lambda window: not window[1])
        images = torch.stack([w[0] for w, _ in windows])
        return Batch(
            images=images.contiguous(memory_format=torch.channels_last_3d),
            targets=torch.stack([w[1] for w, _ in windows]),
            weights=torch.stack([w[2] for w, _ in windows]),
            labelled=torch.tensor([human for _, human in windows]),
            extra=torch.stack([w[3] for w, _ in windows]),
        )

    def _next(self, stream: int) -> str:
        left = self._left[stream]
        if not left:
            names = self._streams[stream]
            left.extend(names[int(n)] for n in torch.randperm(len(names), generator=self._generator))
        return left.pop()

    def _window(self, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sample = self._source.sample(name)
        centre = self._centre(sample)
        sample = self._there.copy(name, sample)
        parts = [sample.target, sample.weight, *([] if sample.extra is None else [sample.extra])]
        image, cut = self._augmentation.window(sample.image, torch.cat(parts), centre, self._size, self._generator)
        classes = len(sample.target)
        return image, cut[:classes], cut[classes : classes + 1], cut[classes + 1 :]

    def _centre(self, sample: Sample) -> list[float]:
        """The centre of a window in voxels: anywhere that keeps it inside the scan, or near a structure."""
        extent = sample.image.shape[1:]
        jitter = torch.rand(4, generator=self._generator)
        centre = []
        aim: list[float] | None = None
        if float(jitter[3]) < _AIMED and any(e > s for e, s in zip(extent, self._size, strict=True)):
            inside = (sample.target[0] < 0.5).nonzero()
            if len(inside):
                pick = int(torch.randint(len(inside), (1,), generator=self._generator))
                aim = [float(v) for v in inside[pick]]
        for axis, (e, s) in enumerate(zip(extent, self._size, strict=True)):
            room = max(0.0, float(e - s))
            low, high = (e - 1 - room) / 2, (e - 1 + room) / 2
            # A window as large as the scan still moves a little: the specialist must not learn positions by heart.
            shake = (float(jitter[axis]) - 0.5) * 0.2 * s
            spot = aim[axis] + shake if aim is not None else low + float(jitter[axis]) * room + shake * (room == 0)
            centre.append(min(max(spot, low - 0.1 * s), high + 0.1 * s))
        return centre
