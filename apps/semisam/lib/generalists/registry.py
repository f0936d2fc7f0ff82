"""Generalists by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .base import Generalist
from .entries import ENTRIES, adapter_of, find_entry
from .mind import Mind
from .weights.files import default_folder, need_weights, path_of
from .weights.hashes import record_weights
from .weights.state_dicts import load_weights


def available_generalists() -> tuple[str, ...]:
    """Names that ``create_generalist`` knows."""
    return tuple(ENTRIES)


def takes_prompts(name: str) -> bool:
    """Whether a generalist answers to clicks, boxes or masks; what the table does not know is taken to."""
    return name not in ENTRIES or bool(ENTRIES[name].capabilities & {"points", "box", "mask"})


def describe_generalists(names: Sequence[str], weights: Path | None = None) -> list[dict[str, object]]:
    """What clients are told of the generalists of a server, in its order: the first one gives features.

    Args:
        names: see ``entries``.
        weights: folder of weights; by default the one inside the app folder.

    Returns:
        For each its ``name``, whether it gives the ``features``, the ``prompts`` it takes, and whether its ``weights``
        are ``present``, ``missing`` or ``not needed``.
    """
    told: list[dict[str, object]] = []
    for name in names:
        entry = find_entry(name)
        there = entry.weights is not None and path_of(entry, weights or default_folder()).is_file()
        told.append(
            {
                "name": name,
                "features": not told,
                "prompts": sorted(entry.capabilities & {"points", "box", "mask"}),
                "weights": "not needed" if entry.weights is None else "present" if there else "missing",
            }
        )
    return told


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
