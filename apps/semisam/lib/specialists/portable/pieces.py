"""The modules that an exported network needs, as files of a package of their own."""

from __future__ import annotations

import re
from pathlib import Path

_LIB = Path(__file__).resolve().parents[2]
_MODULES = (
    *("core.errors", "core.frames", "core.geometry", "core.intensity", "core.resampling", "formats.limits"),
    *("specialists.prepare", "specialists.spec", "specialists.portable.transforms"),
)
_IMPORT = re.compile(r"^(\s*)from (?:lib[\w.]*\.|\.)(\w+) import ", re.MULTILINE)
PROGRAM = "specialists.portable.program"


def write_pieces(folder: Path, *more: str) -> None:
    """Write the modules side by side into a folder, with imports of each other instead of ``lib``.

    Args:
        folder: is made.
        more: modules besides those that all exports need.
    """
    folder.mkdir(parents=True)
    text = '"""What semisam does to a scan before its network sees it, and to the answer afterwards."""\n'
    transforms = '\nfrom .transforms import Labelled, Prepared\n\n__all__ = ["Labelled", "Prepared"]\n'
    (folder / "__init__.py").write_text(text + transforms, encoding="utf-8")
    for module in (*_MODULES, *more):
        source = _LIB.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        name = module.rpartition(".")[2]
        (folder / f"{name}.py").write_text(_IMPORT.sub(r"\1from .\2 import ", source), encoding="utf-8")
