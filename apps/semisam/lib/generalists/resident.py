"""Large models take turns: one at a time in the memory of a GPU."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .base import Generalist
from .entries import adapter_of, find_entry
from .registry import create_generalist
from .weights.files import default_folder
from .weights.hashes import weights_hash


@dataclass
class _Held:
    """A model: the file it was loaded from, and whether it waits in main memory for its next turn on the device."""

    file: tuple[Path, str]
    model: Generalist
    waits: bool = False


class Residents:
    """Holds the models of a process: on a GPU one at a time, in main memory one of each name.

    Of several models for a GPU, the one that is asked for takes the place of the one before, whose weights wait in main
    memory: an open ``PromptSession`` stays good, but its model has to be asked for (``get``) before each use.

    What others still hold of a model that was let go of keeps its memory: they have to let go, too.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], _Held] = {}  # by device and name
        self._lock = threading.RLock()

    def get(self, name: str, *, weights: Path | None = None, device: str = "cpu") -> Generalist:
        """The model, loaded now unless it is there; see ``create_generalist``."""
        folder = weights or default_folder()
        with self._lock:
            entry = find_entry(name)
            file = (folder, weights_hash(entry, folder) if entry.weights else "")
            held = self._held.get((device, name))
            if held is not None and held.file != file:
                held = None
                self._drop([(device, name)])
            if held is None or held.waits:
                self._make_room(device)
            if held is None:
                held = _Held(file, create_generalist(name, weights=folder, device=device))
                self._held[device, name] = held
            elif held.waits:
                _move(held.model, device)
                held.waits = False
            return held.model

    def release(self, device: str | None = None) -> None:
        """Let go of the models for ``device``, or of all, and give the memory back."""
        with self._lock:
            self._drop([key for key in self._held if device in (None, key[0])])

    def _drop(self, keys: Iterable[tuple[str, str]]) -> None:
        for key in keys:
            del self._held[key]
        gc.collect()
        _empty_gpus()

    def _make_room(self, device: str) -> None:
        """Let the model on a GPU wait in main memory; main memory itself has room for all."""
        if torch.device(device).type == "cpu":
            return
        for (where, _), held in self._held.items():
            if where == device and not held.waits:
                _move(held.model, "cpu")
                held.waits = True
        _empty_gpus()


def _move(model: Generalist, device: str) -> None:
    """Bring a model's weights to a device; what has no network computes wherever its input lies."""
    network = getattr(model, "network", None)
    if isinstance(network, nn.Module):
        network.to(device)


def _empty_gpus() -> None:
    """Give back what PyTorch holds in reserve."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


RESIDENTS = Residents()
"""The models of this process."""


class ResidentGeneralist:
    """A generalist by name, loaded when it is first needed and again after it had to go.

    Whoever keeps this object does not keep the model: ``release`` really frees its memory.

    Args:
        name: see ``entries``.
        weights: folder of weights; by default the one inside the app folder.
        device: where to compute.
        residents: who holds the model.
    """

    def __init__(
        self, name: str, *, weights: Path | None = None, device: str = "cpu", residents: Residents = RESIDENTS
    ) -> None:
        self.name = find_entry(name).name
        self.device = device
        self._weights = weights or default_folder()
        self._residents = residents

    @property
    def inner(self) -> Generalist:
        """The model itself; it may also be ``Promptable`` or a ``SliceTracker``. Do not keep it."""
        return self._residents.get(self.name, weights=self._weights, device=self.device)

    @property
    def weights_hash(self) -> str:
        """The sha256 of the model's file, empty when it needs none."""
        entry = find_entry(self.name)
        return weights_hash(entry, self._weights) if entry.weights else ""

    @property
    def preprocessing(self) -> str:
        """What the model's features depend on beside scan and weights. Does not load the model."""
        entry = find_entry(self.name)
        return adapter_of(entry).PREPROCESSING if entry.weights else str(getattr(self.inner, "preprocessing", ""))

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """Features ``[C, d, h, w]`` of a scan ``[1, D, H, W]``; loads the model if it has to."""
        return self.inner.encode(image, spacing)

    def release(self) -> None:
        """Free the model's memory, before a training say. It is loaded again when it is needed again."""
        self._residents.release(self.device)


def weights_of(generalists: Iterable[Generalist]) -> dict[str, str]:
    """The sha256 of each generalist's weights by its name; empty for one without."""
    return {one.name: str(getattr(one, "weights_hash", "")) for one in generalists}


def unwrap(generalist: Generalist) -> Generalist:
    """The model behind wrappers (``ResidentGeneralist``, ``CachedGeneralist``), to ask what else it can do."""
    while (inner := getattr(generalist, "inner", None)) is not None:
        generalist = inner
    return generalist
