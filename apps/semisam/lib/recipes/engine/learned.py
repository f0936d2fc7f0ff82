"""Which structures a training has seen in human labels: only those can be reported as missing in an answer."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from lib.propagation import nothing_found
from lib.specialists import Specialist

from .prepared_study import PreparedStudy

_KEY = "learned"


_SEEN: WeakKeyDictionary[PreparedStudy, tuple[tuple[str, ...], list[str]]] = WeakKeyDictionary()
"""By run: its outlined scans, and what ``learned_names`` found in them."""


def learned_names(study: PreparedStudy) -> list[str]:
    """Structures that at least one human label of a run holds."""
    human = tuple(study.human())
    if _SEEN.get(study, ((), []))[0] != human:
        _SEEN[study] = human, _names_in(study)
    return _SEEN[study][1]


def _names_in(study: PreparedStudy) -> list[str]:
    seen: set[int] = set()
    for name in study.human():
        peaks = study.target(name).probabilities[1:].flatten(1).amax(1)
        seen |= set((peaks > 0).nonzero()[:, 0].tolist())
    return [name for n, name in enumerate(study.schema.names) if n in seen]


def learned(study: PreparedStudy) -> dict[str, object]:
    """For the notes of a specialist."""
    return {_KEY: learned_names(study)}


def learned_by(specialist: Specialist) -> list[str]:
    """What ``learned`` noted; nothing for a specialist of another origin."""
    names = specialist.notes.get(_KEY)
    return [str(name) for name in names] if isinstance(names, list) else []


def missing_in(study: PreparedStudy, label: np.ndarray) -> tuple[str, ...]:
    """Warnings about a specialist's pseudo-label ``[D, H, W]`` uint8: structures it has learned and did not find."""
    return tuple(nothing_found(label, study.schema.names, learned_names(study)))
