"""The note in the folder of an exported network: which files are the export's own.

Another export takes the place of these files and of no other. A folder without the note, or with one file more, belongs
to somebody.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from lib.core.errors import UserError
from lib.core.json_files import read_json, write_json

MARK = ".semisam-export.json"
"""Name of the note."""
_VERSION = 1
_COMPILED = "__pycache__"
"""Python keeps there what it has compiled of the export's own scripts, as soon as one of them has run."""


def write_mark(folder: Path, form: str) -> None:
    """Note all files of a folder as those of an export.

    Args:
        folder: holds the export and nothing else.
        form: name of its format.
    """
    write_json(folder / MARK, {"format": form, "version": _VERSION, "files": sorted(map(str, _held(folder)))})


def check_own(folder: Path, form: str, name: Path) -> None:
    """Make sure that everything in a folder is of an earlier export in this format; an empty folder will do.

    Args:
        folder: the folder.
        form: name of the format.
        name: what to call the folder.

    Raises:
        UserError: (409) when it is no folder, or holds anything else.
    """
    strange = _strange(folder, form) if folder.is_dir() else "it is a file"
    if strange:
        raise UserError(
            f"{name} is there already and holds something else than an export in the format {form}: {strange}. Give a "
            "new or empty folder.",
            status=409,
        )


def _strange(folder: Path, form: str) -> str:
    """The first thing in a folder that is not the export's, "" when all is."""
    held = _held(folder)
    if not held:
        return ""
    known = read_json(folder / MARK)
    files = known.get("files") if known is not None and known.get("format") == form else None
    if not isinstance(files, list):
        return f"{MARK}, which lists the files of an export in this format, is not there"
    own = {PurePosixPath(MARK), *(PurePosixPath(str(file)) for file in files)}
    return str(next((path for path in sorted(held) if path not in own and not _is_compiled(path, own)), ""))


def _is_compiled(path: PurePosixPath, own: set[PurePosixPath]) -> bool:
    """Whether a file is what Python has compiled of one of these files."""
    source = path.parent.parent / f"{path.name.partition('.')[0]}.py"
    return path.parent.name == _COMPILED and path.suffix == ".pyc" and source in own


def _held(folder: Path) -> set[PurePosixPath]:
    """The files in a folder and below it, links, and folders that hold nothing; from the folder on."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir() or not any(path.iterdir()))
    return {PurePosixPath(path.relative_to(folder).as_posix()) for path in found}
