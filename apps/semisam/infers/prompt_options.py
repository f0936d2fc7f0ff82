"""The options of ``prompt``: clicks and a box, as viewers send them, read and checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.core.errors import UserError
from lib.prompting import Clicks
from server.options import is_true, shown

KEYS = ("label", "foreground", "background", "roi", "slice", "reset_state")
"""Keys of a request that belong to the task, besides structures' names."""
_LISTS = frozenset({"foreground", "background", "roi", "points", "point_labels", "label_prompt", "labels"})
"""Keys that hold lists and are no structures' names."""
_MOST_CLICKS = 1000

Point = tuple[float, ...]


@dataclass(frozen=True)
class Click:
    """One click.

    Args:
        key: the request's key that it stood under.
        place: voxel ``(i, j, k)`` of the stored scan; may lie between voxels.
    """

    key: str
    place: Point


@dataclass(frozen=True)
class PromptOptions:
    """What is clicked on.

    Args:
        structure: name of the asked structure.
        inside: clicks in it.
        outside: clicks beside it, those in other structures included.
        box: ``(i0, i1, j0, j1, k0, k1)`` around it in voxels, ends in either order; None without one.
        only_slice: the only slice k that the viewer will take, as the request has it; None for all.
        reset: whether the answers to earlier clicks are to be forgotten.
        client_id: the asking program.
    """

    structure: str
    inside: tuple[Click, ...]
    outside: tuple[Click, ...] = ()
    box: Point | None = None
    only_slice: object = None
    reset: bool = False
    client_id: str = ""

    @classmethod
    def parse(cls, raw: Mapping[str, Any], names: Sequence[str]) -> PromptOptions:
        """Read a request.

        Args:
            raw: ``foreground`` and ``background``, lists of [i, j, k]; ``roi``, [i0, i1, j0, j1, k0, k1]. Without
                ``foreground``, lists by the structures' names: those of other structures are negative.
            names: of the study's structures.

        Raises:
            UserError: when something is malformed, or there is nothing to go by.
        """
        structure = _structure(raw, names)
        outside = _clicks(raw, "background")
        inside: list[Click] = []
        if raw.get("foreground") is not None:
            inside = _clicks(raw, "foreground")
        elif raw.get(structure) is not None:
            inside = _clicks(raw, structure)
            others = [n for n, v in raw.items() if n not in _LISTS and n != structure and _looks_like_points(v)]
            outside += [click for name in others for click in _clicks(raw, name)]
        box = _box(raw.get("roi"))
        _check(structure, inside, outside, box)
        reset = is_true(raw.get("reset_state", False))
        client = str(raw.get("client_id") or "")
        return cls(structure, tuple(inside), tuple(outside), box, raw.get("slice"), reset, client)

    def clicks(self, shape: Sequence[int]) -> Clicks:
        """Clicks and box in a scan.

        Args:
            shape: voxels of the scan.

        Raises:
            UserError: when one of them lies outside the scan, or a click in the structure outside the box.
        """
        for click in (*self.outside, *self.inside):
            if not all(-0.5 <= x <= n - 0.5 for x, n in zip(click.place, shape, strict=True)):
                raise UserError(
                    f"{click.key}: the click at voxel ({_text(click.place)}) lies outside the scan of "
                    f"{' x '.join(map(str, shape))} voxels. Remove it, or check that the viewer shows this very scan."
                )
        box = None if self.box is None else _in_scan(self.box, shape)
        for click in self.inside if box is not None else ():
            if box is not None and ((click.place < box[0] - 0.5) | (click.place > box[1] + 0.5)).any():
                raise UserError(
                    f"The click at voxel ({_text(click.place)}) lies outside the roi. Move one of them, or remove the "
                    "roi."
                )
        return Clicks(_array(self.inside), _array(self.outside), box)

    def slice_of(self, shape: Sequence[int]) -> int | None:
        """The only slice k that the viewer will take, if it says so.

        Args:
            shape: voxels of the scan.

        Raises:
            UserError: when the scan has no such slice.
        """
        value = self.only_slice
        if value is None or value == -1:
            return None
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < shape[2] or value % 1:  # type: ignore[operator]
            raise UserError(
                f"slice: {shown(value)} is not allowed. Give a whole number from 0 to {shape[2] - 1}, or none."
            )
        return int(value)  # type: ignore[call-overload]


def _structure(raw: Mapping[str, Any], names: Sequence[str]) -> str:
    """The asked structure; the first one for OHIF, which names none. New names are welcome."""
    label = raw.get("label")
    if label is None:
        return names[0]
    if not isinstance(label, str) or not label.strip():
        raise UserError(f"label: {shown(label)} is no name. Choose the segment to edit, for example {names[0]!r}.")
    if not label.isascii() and any("\ud800" <= c <= "\udfff" for c in label):
        raise UserError("The request holds text that is no Unicode, such as half of a surrogate pair.")
    return label.strip()


def _clicks(raw: Mapping[str, Any], key: str) -> list[Click]:
    value = raw.get(key) or []
    example = f"{key}: give voxels of the scan as [[i, j, k], ...]"
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{example}, not {str(value)[:60]!r}.")
    found = []
    for point in value:
        numbers = _numbers(point, 3)
        if numbers is None:
            raise UserError(f"{example}; {str(point)[:60]} is no such point.")
        found.append(Click(key, numbers))
    return found


def _box(value: object) -> Point | None:
    """A ROI: six numbers."""
    if value is None or value in ([], ()):
        return None
    numbers = _numbers(value, 6)
    if numbers is None:
        raise UserError(f"roi: give voxels of the scan as [i0, i1, j0, j1, k0, k1], not {str(value)[:80]!r}.")
    return numbers


def _check(structure: str, inside: Sequence[Click], outside: Sequence[Click], box: Point | None) -> None:
    """Raise UserError when clicks do not say what is meant, are too many, or contradict each other."""
    if not inside and box is None:
        more = " Clicks outside of it alone do not say what is meant." if outside else ""
        raise UserError(f"No click lies inside {structure!r} (foreground is empty).{more} Place at least one there.")
    if len(inside) + len(outside) > _MOST_CLICKS:
        raise UserError(f"{len(inside) + len(outside)} clicks are too many; at most {_MOST_CLICKS} are used.")
    both = sorted({click.place for click in inside} & {click.place for click in outside})
    if both:
        raise UserError(
            f"The voxel ({_text(both[0])}) is clicked as inside and as outside. Remove one of the two clicks."
        )


def _in_scan(box: Point, shape: Sequence[int]) -> np.ndarray:
    """First and last voxel ``[2, 3]`` of a ROI, cut to the scan."""
    ends = np.sort(np.array(box).reshape(3, 2), axis=1)
    last = np.array(shape) - 1.0
    if (ends[:, 1] < 0).any() or (ends[:, 0] > last).any():
        raise UserError("roi: the box lies outside the scan. Draw it around the structure.")
    cut: np.ndarray = np.stack([np.maximum(ends[:, 0], 0), np.minimum(ends[:, 1], last)])
    return cut


def _numbers(value: object, count: int) -> Point | None:
    """So many finite numbers, else None."""
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value):
        return None
    try:
        numbers = tuple(float(x) for x in value)
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _looks_like_points(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(point, (list, tuple)) for point in value)


def _array(clicks: Sequence[Click]) -> np.ndarray:
    return np.array([click.place for click in clicks]).reshape(-1, 3)


def _text(place: Point) -> str:
    return ", ".join(f"{x:g}" for x in place)
