"""Large models take turns: one at a time in the memory of a device."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .base import Generalist
from .entries import adapter_of, find_entry
from .registry import create_generalist
from .weights.files import default_folder
from .weights.hashes import weights_hash


@dataclass(frozen=True)
class _Held:
    key: tuple[str, Path, str]
    model: Generalist


class Residents:
    """Holds at most one model a device; asking for another one lets go of it first.

    What others still hold of a model (an open ``PromptSession``, say) keeps its memory: they have to let go, too.
    """

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._lock = threading.RLock()

    def get(self, name: str, *, weights: Path | None = None, device: str = "cpu") -> Generalist:
        """The model, loaded now unless it is there; see ``create_generalist``."""
        folder = weights or default_folder()
        with self._lock:
            entry = find_entry(name)
            key = (name, folder, weights_hash(entry, folder) if entry.weights else "")
            held = self._held.get(device)
            if held is None or held.key != key:
                held = None
                self.release(device)
                held = _Held(key, create_generalist(name, weights=folder, device=device))
                self._held[device] = held
            return held.model

    def release(self, device: str | None = None) -> None:
        """Let go of the model on ``device``, or of all, and give the memory back."""
        with self._lock:
            for name in [device] if device else list(self._held):
                self._held.pop(name, None)
        gc.collect()
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


def unwrap(generalist: Generalist) -> Generalist:
    """The model behind wrappers (``ResidentGeneralist``, ``CachedGeneralist``), to ask what else it can do."""
    while (inner := getattr(generalist, "inner", None)) is not None:
        generalist = inner
    return generalist
