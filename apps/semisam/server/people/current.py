"""Who asks, while a request is answered."""

from __future__ import annotations

from contextvars import ContextVar

_NAME: ContextVar[str] = ContextVar("semisam_person", default="")


def person() -> str:
    """The name of who has logged in; empty outside of requests, and where nobody has to log in."""
    return _NAME.get()


def be(name: str) -> None:
    """Note who asks, for the rest of this request.

    Args:
        name: of the user.
    """
    _NAME.set(name)
