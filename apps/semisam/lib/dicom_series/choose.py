"""Which planes of a series make up one volume: localizers, second copies and further volumes are left aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lib.core.errors import UserError

from .headers import MOMENTS, OF_ALL, ONE_EACH, TELLING
from .pixels import same_pixels
from .slices import Slice

_TURN = 2e-3
"""How far direction cosines of one stack may differ: headers round."""
_ACROSS = 0.5
"""How far direction cosines differ at least of planes that surely are no slices of a stack, as localizers are."""
_SPACING = 1e-3
"""How far pixel sizes of one stack may differ, as a share."""
_FEW = 3
"""Localizers in a series: so many images are always few."""
_SAME_PLACE = 0.1
"""Planes closer than this share of the usual step lie at one place."""
_ECHO = 0.05
"""How far echo times of one volume may differ, as a share."""


@dataclass(frozen=True)
class Chosen:
    """The planes of one volume.

    Args:
        slices: by their place along their normal, none at the place of another.
        notes: sentences about what was left aside.
    """

    slices: tuple[Slice, ...]
    notes: tuple[str, ...] = ()


def choose(slices: Sequence[Slice], name: str) -> Chosen:
    """The planes of the one volume of a series.

    Args:
        slices: all its planes.
        name: what to call it.

    Raises:
        UserError: (422) when it is not clear which planes make up one volume; the text names a plane and the reason.
    """
    main, notes = _without_others(_each_once(slices, name), name)
    _check_alike(main, name)
    along = along_normal(main)
    order = np.argsort(along, kind="stable")
    places = _places([main[n] for n in order], along[order])
    if any(len(planes) > 1 for planes in places):
        places, more = _without_copies(places, name)
        notes += more
    if any(len(planes) > 1 for planes in places):
        places, more = _one_volume(places, name)
        notes += more
    found = tuple(planes[0] for planes in places)
    _check_one_kind(found, name)
    return Chosen(found, tuple(notes))


def along_normal(slices: Sequence[Slice]) -> np.ndarray:
    """Where planes lie along the normal of the first one, in mm."""
    normal = slices[0].axes[2]
    result: np.ndarray = np.array([each.position for each in slices], dtype=float) @ normal
    return result


def refused(name: str, reason: str, advice: str = "Export the series again, or split it.") -> UserError:
    """What to say of a series that cannot be read rightly."""
    return UserError(f"{name} cannot be read as one volume: {reason}. {advice}", status=422)


def _each_once(slices: Sequence[Slice], name: str) -> list[Slice]:
    """Planes without further copies of the same object."""
    found: dict[tuple[str, int | None], Slice] = {}
    for each in slices:
        known = found.setdefault((each.uid, each.frame), each)
        if known is not each and (known.position, known.orientation) != (each.position, each.orientation):
            raise refused(name, f"{known.text} and {each.text} have the same SOPInstanceUID, but lie elsewhere")
        if known is not each and not same_pixels(known, each):
            raise refused(name, f"{known.text} and {each.text} have the same SOPInstanceUID, but show different things")
    return list(found.values())


# --- other sizes, other directions ------------------------------------------------------------------------------------


def _without_others(slices: Sequence[Slice], name: str) -> tuple[list[Slice], list[str]]:
    """The planes of the one direction and size that make up the stack; what else may be left aside."""
    main = _largest_group(slices)
    others = [each for each in slices if all(each is not one for one in main)]
    if not main or not others:
        return main or list(slices), []
    few = len(others) <= max(_FEW, len(main) // 10)
    for each in others:
        if each.localizer or (few and _is_beside(each, main)):
            continue
        raise _odd_one(each, main, len(others), name)
    count = "an image" if len(others) == 1 else f"{len(others)} images"
    was = "was" if len(others) == 1 else "were"
    why = _difference(others[0], main[0]) or "it says so itself"
    return main, [f"{name}: {count} beside the stack {was} left out as localizer: {others[0].text} ({why})."]


def _largest_group(slices: Sequence[Slice]) -> list[Slice]:
    """The most planes that have one direction and size; localizers do not count if there are others."""
    placed = [each for each in slices if each.placed]
    candidates = [each for each in placed if not each.localizer] or placed
    groups: list[list[Slice]] = []
    for each in candidates:
        group = next((g for g in groups if not _difference(each, g[0])), None)
        if group is None:
            groups.append([each])
        else:
            group.append(each)
    return max(groups, key=len, default=[])


def _difference(one: Slice, other: Slice) -> str:
    """What keeps two planes from being of one stack; "" when nothing does."""
    if not one.placed:
        return "it does not say where it lies"
    if _turned(one, other) > _TURN:
        return "it has another orientation"
    if (one.rows, one.columns) != (other.rows, other.columns):
        return f"it has {one.columns} x {one.rows} pixels, the others have {other.columns} x {other.rows}"
    if np.abs(np.array(one.spacing) / np.array(other.spacing) - 1).max() > _SPACING:
        pixel = " x ".join(f"{v:g}" for v in one.spacing or ())
        return f"its pixels have {pixel} mm, the others' {' x '.join(f'{v:g}' for v in other.spacing or ())} mm"
    return ""


def _turned(one: Slice, other: Slice) -> float:
    """How far the direction cosines of two planes differ at most."""
    return float(np.abs(np.array(one.orientation) - np.array(other.orientation)).max())


def _is_beside(each: Slice, main: Sequence[Slice]) -> bool:
    """Whether a plane that differs is surely no slice of the stack that was stored in another way."""
    if not each.placed:
        return (each.rows, each.columns) != (main[0].rows, main[0].columns)
    if _turned(each, main[0]) > _ACROSS:
        return True
    along = along_normal([main[0], *main, each])[1:]
    places, own = np.unique(along[:-1].round(2)), along[-1]
    step = float(np.median(np.diff(places))) if len(places) > 1 else 1.0
    # Where the stack has a slice of its own, or far from it.
    return bool(np.abs(places - own).min() < _SAME_PLACE * step or np.abs(places - own).min() > 1.5 * step)


def _odd_one(each: Slice, main: Sequence[Slice], count: int, name: str) -> UserError:
    if not each.placed and not main[0].placed:
        return refused(name, "its images do not say where they lie (ImagePositionPatient)")
    more = f" (and {count - 1} more)" if count > 1 else ""
    return refused(name, f"{each.text}{more} does not fit the other images: {_difference(each, main[0])}")


def _check_alike(slices: Sequence[Slice], name: str) -> None:
    """Refuse planes without a place, in colour, or of which some have real values and some have not."""
    bare = next((each for each in slices if not each.placed), None)
    if bare is not None:
        lacking = [
            word
            for word, value in (
                ("ImagePositionPatient", bare.position),
                ("ImageOrientationPatient", bare.orientation),
                ("PixelSpacing", bare.spacing),
            )
            if value is None
        ]
        raise refused(name, f"{bare.text} does not say where it lies in the patient: it has no {', '.join(lacking)}")
    coloured = next((each for each in slices if each.storage.colour), None)
    if coloured is not None:
        raise refused(name, f"{coloured.text} is in colour ({coloured.storage.colour})", "Export it in shades of grey.")
    plain = next((each for each in slices if each.rescale is None), None)
    if plain is not None and any(each.rescale is not None for each in slices):
        raise refused(name, f"{plain.text} has no RescaleSlope and RescaleIntercept, others have")


# --- several planes at one place --------------------------------------------------------------------------------------


def _places(ordered: Sequence[Slice], along: np.ndarray) -> list[list[Slice]]:
    """The planes at each place, along the stack."""
    steps = np.diff(along)
    apart = steps[steps > 0.01] if (steps > 0.01).any() else steps[steps > 1e-4]
    limit = _SAME_PLACE * float(np.median(apart)) if len(apart) else 1e-4
    places = [[ordered[0]]]
    for each, step in zip(ordered[1:], steps, strict=True):
        if step > limit:
            places.append([])
        places[-1].append(each)
    return [sorted(planes, key=lambda each: (each.number or 0, each.file, each.frame or 0)) for planes in places]


def _without_copies(places: list[list[Slice]], name: str) -> tuple[list[list[Slice]], list[str]]:
    """Each place without planes that show the same as another one there."""
    kept, copies = [], []
    for planes in places:
        own = [planes[0]]
        for each in planes[1:]:
            if any(one.position == each.position and same_pixels(one, each) for one in own):
                copies.append(each)
            else:
                own.append(each)
        kept.append(own)
    if not copies:
        return kept, []
    count = "1 image is there" if len(copies) == 1 else f"{len(copies)} images are there"
    return kept, [f"{name}: {count} twice with the same content, and counted once: {copies[0].text}."]


def _one_volume(places: list[list[Slice]], name: str) -> tuple[list[list[Slice]], list[str]]:
    """The first of several volumes at the same places, if the headers say clearly which planes belong together."""
    for key, word in TELLING.items():
        volumes = _by_value(places, key)
        if volumes:
            value, planes = next(iter(volumes.items()))
            several = f"{len(volumes)} volumes" if len(volumes) > 1 else "a volume and parts of others"
            text = f"{name}: it holds {several}, told apart by their {word}; the one of {value} was taken."
            return [[each] for each in planes], [text]
    counts = {len(planes) for planes in places}
    for key, word in MOMENTS.items():
        if len(counts) == 1 and all(len({each.marks.get(key) for each in p} - {None}) == len(p) for p in places):
            first = [min(planes, key=lambda each: _sortable(each.marks[key])) for planes in places]
            text = f"{name}: it holds {counts.pop()} volumes, told apart by their {word}; the first one was taken."
            return [[each] for each in first], [text]
    crowded = [planes for planes in places if len(planes) > 1]
    one, other = crowded[0][:2]
    many = f"at {len(crowded)} of {len(places)} places there are several different images, such as {one.text}"
    raise refused(
        name,
        f"{many} and {other.text}, and nothing in the headers says clearly which belong to one volume",
        "Split it into one series for each volume.",
    )


def _by_value(places: Sequence[Sequence[Slice]], key: str) -> Mapping[str, list[Slice]]:
    """The volumes that have a plane at each place, by a mark's value, smallest first; {} where it tells nothing."""
    found: dict[str, list[Slice]] = {}
    for planes in places:
        values = [each.marks.get(key) for each in planes]
        if None in values or len(set(values)) != len(values):
            return {}
        for value, each in zip(values, planes, strict=True):
            found.setdefault(str(value), []).append(each)
    if len(found) < 2:
        return {}
    whole = {value: planes for value, planes in found.items() if len(planes) == len(places)}
    return {value: whole[value] for value in sorted(whole, key=_sortable)}


def _sortable(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _check_one_kind(slices: Sequence[Slice], name: str) -> None:
    """Refuse planes that are alternately of two volumes, or not of one patient and one space."""
    for key, word in OF_ALL.items():
        named = [each for each in slices if each.marks.get(key)]
        other = next((each for each in named if each.marks[key] != named[0].marks[key]), None)
        if other is not None:  # without the values, which may name a patient
            raise refused(
                name,
                f"{other.text} has another {word} than {named[0].text}, so they do not lie in one space",
                "Split it into one series for each of them.",
            )
    for key, word in ONE_EACH.items():
        first = slices[0].marks.get(key)
        odd = next((each for each in slices if not _alike(each.marks.get(key), first, key)), None)
        if odd is not None:
            own = odd.marks.get(key)
            raise refused(
                name,
                f"{odd.text} is of another volume than {slices[0].text}: its {word} is {own or 'not given'}, "
                f"not {first or 'given'}",
                "Split it into one series for each volume.",
            )


def _alike(one: str | None, other: str | None, key: str) -> bool:
    if one == other:
        return True
    if one is None or other is None:
        return False
    try:
        a, b = float(one), float(other)
    except ValueError:
        return False
    return abs(a - b) <= (_ECHO * max(abs(a), abs(b)) if key == "EchoTime" else 0)
