"""A generalist with four weights, registered for a test as if it were published."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.generalists.base import Generalist
from lib.generalists.entries import ENTRIES, Entry, Layout, WeightsFile
from official_weights import write_official


class TinyGeneralist:
    """Gives the scan times each of its weights."""

    prompts = frozenset({"points"})
    preprocessing = "tiny 1"

    def __init__(self, name: str, weights: Tensor, device: str = "cpu") -> None:
        self.name = name
        self.weights = weights
        self.device = device
        self.encoded = 0

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        self.encoded += 1
        return image * self.weights[:, None, None, None]

    def open(self, image: Tensor, spacing: Sequence[float]) -> object:
        return object()


def random_state(name: str, seed: int) -> dict[str, Tensor]:
    return {"scale": torch.rand(4, generator=torch.Generator().manual_seed(seed))}


def _build(name: str, state: Mapping[str, Tensor], device: str = "cpu") -> Generalist:
    if set(state) != {"scale"} or state["scale"].shape != (4,):
        raise UserError(f"The weights file does not fit {name}: {', '.join(state)}.", status=422)
    return TinyGeneralist(name, state["scale"], device)


def register(monkeypatch: pytest.MonkeyPatch, layout: Layout = "model", **facts: object) -> Entry:
    """Put ``tiny`` into the table; ``facts`` are those of its file."""
    module = ModuleType("lib.generalists.tiny.adapter")
    module.build, module.random_state = _build, random_state  # type: ignore[attr-defined]
    module.PREPROCESSING = TinyGeneralist.preprocessing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    weights = replace(
        WeightsFile("tiny.pt", "https://example.org/tiny", None, layout=layout),
        **facts,  # type: ignore[arg-type]
    )
    entry = Entry("tiny", "four numbers", frozenset({"encode"}), "MIT", "not stated", None, (), weights, "tiny")
    monkeypatch.setitem(ENTRIES, "tiny", entry)
    return entry


def official(path: Path, seed: int = 0, layout: Layout = "model") -> Path:
    """An official file of ``tiny``."""
    write_official(random_state("tiny", seed), path, layout)
    return path
