"""The formats of an exported network, by name, and its folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from lib.core.files import space_errors
from lib.specialists.checkpoint import Specialist

from .bundle import write_bundle
from .mark import check_own, write_mark
from .network import check_portable
from .onnx import check_onnx, write_onnx


def _nothing() -> None:
    """Nothing else has to be installed."""


NETWORK_FORMATS: Mapping[str, tuple[Callable[[], None], Callable[[Specialist, Path], None]]] = {
    "onnx": (check_onnx, write_onnx),
    "bundle": (_nothing, write_bundle),
}
"""What checks whether a format can be written here, and what writes it."""


def export_network(specialist: Specialist, form: str, folder: Path) -> None:
    """Write a specialist for other programs, whole or not at all.

    Args:
        specialist: the specialist.
        form: name of the format, of ``NETWORK_FORMATS``.
        folder: new, empty, or an earlier export in this format, whose place this one takes.

    Raises:
        UserError: (409) when the folder holds anything else, or packages are missing; (422) when this specialist
            cannot be exported; (507) when there is no space left.
    """
    check, write = NETWORK_FORMATS[form]
    check()
    check_portable(specialist)
    if folder.exists():
        check_own(folder, form, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with space_errors(folder.parent), tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as name:
        made = Path(name) / "export"
        made.mkdir()
        write(specialist, made)
        write_mark(made, form)
        if folder.exists():
            _take_place(made, folder, form, Path(name) / "earlier")
        else:
            made.replace(folder)


def _take_place(made: Path, folder: Path, form: str, aside: Path) -> None:
    """Move an export to the place of an earlier one, which lies aside then.

    Raises:
        UserError: (409) when somebody has put something into the folder meanwhile.
    """
    folder.replace(aside)
    try:
        check_own(aside, form, folder)  # again: from here on nobody puts anything into it
        made.replace(folder)
    except BaseException:
        aside.replace(folder)
        raise
