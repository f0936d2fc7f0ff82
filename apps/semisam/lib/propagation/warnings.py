"""What may be wrong with a label that was carried over, in words for whoever reviews it.

Facts that anyone can check: is each structure there, is it about as large as where it was outlined, is it cut off by
the edge of the scan, and does the scan look like the outlined one at all. Silence is no promise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from lib.core.geometry import Volume
from lib.core.labels import count_values

from .base import SoftLabels, Template
from .fusion import signature

_MOST_TIMES = 4.0
"""Ratio of a structure's volumes from which on it is hardly the same structure, in any patient."""
_LEAST_SCAN_SIMILARITY = 0.13
"""Correlation of two scans' signatures below which they have nothing in common. Two of one kind have 0.3 to 0.9, and
up to 0.15 where they show different parts of the body or one is noise."""
_LEAST_SIMILARITY = 0.1
"""Agreement of the features after matching below which nothing was matched."""
_CUT, _WHOLE = 0.5, 0.1
"""Area of a structure on the scan's faces, over its volume to the power of 2/3: cut off from the first on (a ball cut
in halves has 1.9), and whole up to the second."""
_LISTED = 5


@dataclass(frozen=True)
class Facts:
    """About the structures 1..N of a label, one entry each.

    Args:
        volumes: in ml.
        cut: area on the faces of the scan over the volume to the power of 2/3.
    """

    volumes: tuple[float, ...]
    cut: tuple[float, ...]


def facts_of(label: np.ndarray, scan: Volume, count: int) -> Facts:
    """The facts of the structures 1..count of a label ``[D, H, W]`` on the scan's grid."""
    voxels = count_values(label)[1 : count + 1]
    mm = scan.spacing
    areas = np.zeros(count)
    for axis in range(3):
        if label.shape[axis] > 1:  # of a 2D image, each pixel lies on both faces
            area = mm[(axis + 1) % 3] * mm[(axis + 2) % 3]
            for end in (0, -1):
                face = np.take(label, [end], axis=axis)
                areas += count_values(face)[1 : count + 1] * area
    volumes = voxels * scan.voxel_ml
    sizes = np.maximum(volumes * 1000.0, 1e-9) ** (2 / 3)
    return Facts(tuple(float(v) for v in volumes), tuple(float(a / s) for a, s in zip(areas, sizes, strict=True)))


@dataclass(frozen=True, eq=False)
class _Known:
    """What is compared of an outlined scan, kept as long as the ``Template`` is."""

    facts: Facts
    signature: Tensor


_KNOWN: WeakKeyDictionary[Template, _Known] = WeakKeyDictionary()


def _known(template: Template, count: int) -> _Known:
    kept = _KNOWN.get(template)
    if kept is None or len(kept.facts.volumes) != count:
        kept = _Known(facts_of(template.label, template.scan, count), signature(template.scan))
        _KNOWN[template] = kept
    return kept


def warnings_of(
    soft: SoftLabels, label: np.ndarray, scan: Volume, templates: Sequence[Template], names: Sequence[str]
) -> tuple[str, ...]:
    """Sentences about what may be wrong with a label that was carried over; none as a rule.

    Args:
        soft: the label with its confidence.
        label: ``[D, H, W]`` uint8 on the scan's grid: what ``soft`` says.
        scan: the scan.
        templates: the outlined scans it comes from, one at least.
        names: of the structures 1..N.
    """
    sound = soft.sound()
    said = warnings_about(label, scan, templates, names, soft.similarity, sound)
    doubtful = [] if sound is False else [names[value - 1] for value in soft.doubtful() if (label == value).any()]
    return (*said, f"Hardly certain: {_listed(doubtful)}. Check the place and the outline.") if doubtful else said


def warnings_about(
    label: np.ndarray,
    scan: Volume,
    templates: Sequence[Template],
    names: Sequence[str],
    similarity: float,
    sound: bool | None = None,
) -> tuple[str, ...]:
    """Those of them for which a label and a few figures are enough.

    Args:
        label: ``[D, H, W]`` uint8 on the scan's grid.
        scan: the scan.
        templates: the outlined scans it comes from, one at least.
        names: of the structures 1..N.
        similarity: see ``SoftLabels.similarity``.
        sound: see ``SoftLabels.sound``; where it is known, no other comparison of the scans is needed.
    """
    found = facts_of(label, scan, len(names))
    outlined_scans = [_known(template, len(names)) for template in templates]
    known = [each.facts for each in outlined_scans]
    outlined = ", ".join(t.name for t in templates)
    expected = [n for n in range(len(names)) if any(each.volumes[n] > 0 for each in known)]
    if expected and not any(found.volumes[n] > 0 for n in expected):
        return (
            f"Nothing of what is outlined in {outlined} was found in this scan. Check that it shows the same part of "
            "the body. If the structures are there, outline them by hand.",
        )
    said = [_unlike(scan, [each.signature for each in outlined_scans], similarity, sound, outlined)]
    said.append(_missing([names[n] for n in expected if not found.volumes[n]], outlined))
    there = [n for n in expected if found.volumes[n] > 0]
    said += _sizes(found, known, [(n, names[n]) for n in there], outlined)
    if not scan.flat:
        cut = [n for n in there if found.cut[n] > _CUT and all(each.cut[n] <= _WHOLE for each in known)]
        said.append(_cut_off([names[n] for n in cut]))
    return tuple(text for text in said if text)


def nothing_found(label: np.ndarray, names: Sequence[str], learned: Collection[str] = ()) -> tuple[str, ...]:
    """The same about a specialist's label.

    Args:
        label: ``[D, H, W]`` uint8.
        names: of the structures 1..N.
        learned: those that it has seen outlined; the others are not missed.
    """
    counts = count_values(label)
    missing = [name for value, name in enumerate(names, 1) if name in learned and not counts[value]]
    if not counts[1:].any():
        return (
            "No structure was found in this scan. Check that it shows the same part of the body as the outlined ones. "
            "If the structures are there, outline them and train again.",
        )
    return (f"Not found in this scan: {_listed(missing)}. Check whether they are there.",) if missing else ()


def _unlike(scan: Volume, signatures: Sequence[Tensor], similarity: float, sound: bool | None, outlined: str) -> str:
    if sound is not None:
        alike = sound
    else:
        own = signature(scan)
        scan_similarity = max(float(each @ own) for each in signatures)
        alike = scan_similarity >= _LEAST_SCAN_SIMILARITY and similarity >= _LEAST_SIMILARITY
    if alike:
        return ""
    return (
        f"This scan looks unlike what is outlined in {outlined}, so the whole answer may be wrong. Check that it shows "
        "the same part of the body in the same kind of picture."
    )


def _missing(names: Sequence[str], outlined: str) -> str:
    if not names:
        return ""
    return f"Not found in this scan, though outlined in {outlined}: {_listed(names)}. Check whether they are there."


def _sizes(found: Facts, known: Sequence[Facts], named: Sequence[tuple[int, str]], outlined: str) -> list[str]:
    """About structures whose volume is far from all outlined ones."""

    def far(wrong: Callable[[float, float, float], bool]) -> list[str]:
        texts = []
        for n, name in named:
            volumes = [each.volumes[n] for each in known if each.volumes[n] > 0]
            if wrong(found.volumes[n], min(volumes), max(volumes)):
                texts.append(f"{name} ({_ml(found.volumes[n])} here, {_between(min(volumes), max(volumes))} there)")
        return texts

    small = far(lambda own, least, largest: own * _MOST_TIMES < least)
    large = far(lambda own, least, largest: own > largest * _MOST_TIMES)
    return [
        f"Much {word} than in {outlined}: {_listed(texts)}. Check the outline."
        for word, texts in (("smaller", small), ("larger", large))
        if texts
    ]


def _cut_off(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"Cut off by the edge of the scan: {_listed(names)}. Part of it may lie outside, or the place may be wrong."


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_LISTED]) + (f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else "")


def _ml(volume: float) -> str:
    return f"{volume:.3g} ml"


def _between(least: float, largest: float) -> str:
    return _ml(largest) if _ml(least) == _ml(largest) else f"{least:.3g} to {_ml(largest)}"
