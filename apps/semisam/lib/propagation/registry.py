"""Propagators by name."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import UserError
from .base import Propagator
from .ensemble import EnsemblePropagator
from .prototype import PrototypePropagator
from .registration import RegistrationPropagator
from .video import VideoPropagator

_MAKERS: dict[str, Callable[[], Propagator]] = {
    "registration": RegistrationPropagator,
    "prototype": PrototypePropagator,
    "video": VideoPropagator,
    "ensemble": lambda: EnsemblePropagator([RegistrationPropagator(), PrototypePropagator()]),
}


def available_propagators() -> tuple[str, ...]:
    """Names that ``create_propagator`` knows."""
    return tuple(_MAKERS)


def create_propagator(name: str) -> Propagator:
    """Make the propagator ``name``.

    Raises:
        UserError: when there is none of this name.
    """
    if name not in _MAKERS:
        raise UserError(f"There is no propagator {name!r}. Known: {', '.join(_MAKERS)}.")
    return _MAKERS[name]()
