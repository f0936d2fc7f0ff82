"""Propagators by name."""

from __future__ import annotations

from collections.abc import Callable

from lib.core.devices import default_device
from lib.core.errors import UserError

from .base import Propagator
from .ensemble import EnsemblePropagator
from .prototype import PrototypePropagator
from .registration import RegistrationPropagator
from .video import VideoPropagator

_MAKERS: dict[str, Callable[[str], Propagator]] = {
    "registration": lambda device: RegistrationPropagator(device=device),
    "prototype": lambda device: PrototypePropagator(device=device),
    "video": lambda device: VideoPropagator(),  # computes little itself: its model has a device of its own
    "ensemble": lambda device: EnsemblePropagator(
        [RegistrationPropagator(device=device), PrototypePropagator(device=device)]
    ),
}


def available_propagators() -> tuple[str, ...]:
    """Names that ``create_propagator`` knows."""
    return tuple(_MAKERS)


def create_propagator(name: str, device: str | None = None) -> Propagator:
    """Make the propagator ``name``.

    Args:
        name: see ``available_propagators``.
        device: where to compute; None for a GPU where there is one.

    Raises:
        UserError: when there is none of this name.
    """
    if name not in _MAKERS:
        raise UserError(f"There is no propagator {name!r}. Known: {', '.join(_MAKERS)}.")
    return _MAKERS[name](device or default_device())
