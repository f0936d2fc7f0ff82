"""Generalists by name."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import UserError
from .base import Generalist
from .mind import Mind

_MAKERS: dict[str, Callable[[], Generalist]] = {"mind": Mind}


def available_generalists() -> tuple[str, ...]:
    """Names that ``create_generalist`` knows."""
    return tuple(_MAKERS)


def create_generalist(name: str) -> Generalist:
    """Make the generalist ``name``.

    Raises:
        UserError: when there is none of this name.
    """
    if name not in _MAKERS:
        raise UserError(f"There is no generalist {name!r}. Known: {', '.join(_MAKERS)}.")
    return _MAKERS[name]()
