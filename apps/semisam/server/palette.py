"""Colours of structures: one for each name, wherever it is shown - on the page, in OHIF's panel, in DICOM SEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monailabel.datastore.utils.colors import GENERIC_ANATOMY_COLORS

Colour = tuple[int, int, int]
"""Red, green and blue, 0..255."""

_OTHERS: tuple[Colour, ...] = (
    (255, 159, 67),
    (72, 219, 251),
    (29, 209, 161),
    (255, 107, 107),
    (200, 140, 255),
    (254, 202, 87),
    (120, 150, 255),
    (255, 159, 243),
)
"""Of structures without a usual colour, by their value from 1; they begin anew when there are more."""


def colour_of(name: str, value: int, given: object = None) -> Colour:
    """The colour that a viewer sent, else the usual one of the structure (3D Slicer's), else one of a few.

    Args:
        name: of the structure.
        value: its voxel value, from 1.
        given: red, green and blue as a viewer has sent them; not checked.
    """
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) >= 3:
        try:
            numbers = [float(c) for c in given[:3]]
            return tuple(int(min(max(c, 0), 255)) for c in numbers)  # type: ignore[return-value]
        except (TypeError, ValueError):
            pass  # a colour is no reason to lose a label
    plain = " ".join(name.lower().replace("_", " ").split())
    known: Colour | None = GENERIC_ANATOMY_COLORS.get(plain)
    return known or _OTHERS[(value - 1) % len(_OTHERS)]


def colours_of(names: Mapping[str, int]) -> dict[int, Colour]:
    """Colours by value.

    Args:
        names: values of the structures by name.
    """
    return {value: colour_of(name, value) for name, value in names.items()}


def as_text(colour: Colour) -> str:
    """A colour as web pages have it: ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
