"""The formats of an exported network, by name, and its folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from lib.core.errors import UserError
from lib.core.files import space_errors
from lib.specialists.checkpoint import Specialist

from .bundle import write_bundle
from .network import check_portable
from .onnx import check_onnx, write_onnx

_OURS = {"onnx": "model.json", "bundle": "configs/metadata.json"}
"""By which an earlier export is known."""


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
        UserError: (409) when the folder holds something else, or packages are missing; (422) when this specialist
            cannot be exported; (507) when there is no space left.
    """
    check, write = NETWORK_FORMATS[form]
    check()
    check_portable(specialist)
    there = folder.exists()
    if there and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / _OURS[form]).is_file())):
        raise UserError(
            f"{folder} is there already and holds something else than an export in the format {form}. Give a new or "
            "empty folder.",
            status=409,
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with space_errors(folder.parent), tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as name:
        made = Path(name) / "export"
        made.mkdir()
        write(specialist, made)
        if there:
            shutil.rmtree(folder)
        made.replace(folder)
