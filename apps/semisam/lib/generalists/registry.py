"""Generalists by name."""

from __future__ import annotations

from pathlib import Path

from .base import Generalist
from .entries import ENTRIES, adapter_of, find_entry
from .mind import Mind
from .weights.files import default_folder, need_weights
from .weights.hashes import record_weights
from .weights.state_dicts import load_weights


def available_generalists() -> tuple[str, ...]:
    """Names that ``create_generalist`` knows."""
    return tuple(ENTRIES)


def check_generalist(name: str, weights: Path | None = None) -> None:
    """Tell early whether ``create_generalist`` will find what it needs; reads and imports nothing.

    Raises:
        UserError: (404) when there is none of this name, (409) when its file is not there, with the commands that help.
    """
    entry = find_entry(name)
    if entry.weights is not None:
        need_weights(entry, weights or default_folder())


def create_generalist(name: str, *, weights: Path | None = None, device: str = "cpu") -> Generalist:
    """Make the generalist ``name``.

    Args:
        name: see ``entries``.
        weights: folder of weights; by default the one inside the app folder.
        device: where to compute, as PyTorch names it.

    Raises:
        UserError: (404) when there is none of this name, (409) when its file is not there, with the commands that help,
            (422) when the file is not the right one.
    """
    entry = find_entry(name)
    if name == Mind.name:
        return Mind()
    if entry.weights is None:
        return adapter_of(entry).build(name, {}, device)
    folder = weights or default_folder()
    model = adapter_of(entry).build(name, load_weights(entry, folder), device)
    record_weights(entry, folder)
    return model
