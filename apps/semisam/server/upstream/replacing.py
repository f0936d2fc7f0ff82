"""How a function of another package is replaced: by its name, loudly if there is none, and once.

Not a patch by itself: the other modules of this folder use it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

_PLAIN = "semisam_plain"

Function = Callable[..., Any]


def plain(owner: Any, name: str) -> Function:
    """The function as the package brings it, whether it is replaced or not.

    Args:
        owner: a module or class.
        name: of the function in it.

    Raises:
        AttributeError: when the package no longer has it.
    """
    current: Function = getattr(owner, name)
    return getattr(current, _PLAIN, current)


def replace(owner: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Put another function in the place of a package's own.

    MONAI Label may load the app again in one process: the function is then made anew from the package's own, so that
    nothing of an earlier load is called.

    Args:
        owner: a module, or a class with a static method.
        name: of the function in it.
        make: given the package's own function, makes the one to be called.

    Raises:
        AttributeError: when the package no longer has it.
    """
    own = plain(owner, name)
    made = functools.wraps(own)(make(own))
    setattr(made, _PLAIN, own)
    setattr(owner, name, staticmethod(made) if inspect.isclass(owner) else made)


def restore(owner: Any, name: str) -> None:
    """Put the package's own function back."""
    own = plain(owner, name)
    setattr(owner, name, staticmethod(own) if inspect.isclass(owner) else own)


def arguments(own: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """The arguments of a call by the names that the package's own function gives them, defaults included."""
    bound = inspect.signature(own).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound
