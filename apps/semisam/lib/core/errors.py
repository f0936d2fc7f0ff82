"""The one error type whose text is meant for a user, and how such texts list names and values."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """Something a user or administrator can put right.

    The text says what is wrong and what to do next. Adapters hand it to clients as an HTTP answer with ``status``.

    Args:
        text: one or two plain sentences.
        status: HTTP status code that fits (400 bad request, 404 unknown name, 409 not possible now,
            422 unusable file, 507 no space).
    """

    def __init__(self, text: str, *, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first few of some names or values, as messages show them: ``a, b, ...``."""
    return ", ".join(str(item) for item in items[:most]) + (", ..." if len(items) > most else "")
