"""Scans in two files: a MetaImage header (``.mhd``) beside its data, and the two as one file (``.mha``).

See the documentation of MetaIO, https://docs.itk.org/en/latest/learn/metaio.html: ``ElementDataFile`` is the last line
of the header, and names a file, ``LOCAL`` (the data follow), ``LIST`` (names follow, one a line) or a pattern.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lib.core.errors import UserError
from lib.core.files import write_whole

HEADER = ".mhd"
_MOST_BYTES = 65_536
_NUMBER = re.compile(r"%0?[1-9]?d")


def data_files(header: Path) -> list[Path]:
    """The data files of a ``.mhd`` header, whether they are there or not; empty for every other file.

    Only names in the header's own folder count: a header that leads elsewhere has no data, see ``check_header``.
    """
    if not header.name.lower().endswith(HEADER) or not header.is_file():
        return []
    return [header.parent / name for name in _names(_lines(header)) if not _leads_elsewhere(name)]


def check_header(header: Path) -> None:
    """Look whether a ``.mhd`` scan is whole.

    Raises:
        UserError: (422) when the header names no data, data in another folder, or data that are not there.
    """
    names = _names(_lines(header))
    if any(_leads_elsewhere(name) for name in names):
        raise UserError(
            f"{header.name} names a data file in another folder. Put both into the study, or save the scan as .mha or "
            ".nii.gz.",
            status=422,
        )
    missing = [name for name in names if not (header.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{header.name} is only the header of a scan: its data, {missing[0]}, are not beside it. Bring both files, "
            "or save the scan as .mha or .nii.gz.",
            status=422,
        )


def join(header: Path, target: Path) -> None:
    """Write a ``.mhd`` header and its data as one ``.mha`` file, byte for byte.

    Raises:
        UserError: (422) when the scan is not whole.
    """
    check_header(header)
    lines = _lines(header)
    fields = {line.partition("=")[0].strip().lower(): line.partition("=")[2].strip() for line in lines[: _place(lines)]}
    skipped = int(fields["headersize"]) if fields.get("headersize", "").isdigit() else 0
    kept = [line for line in lines[: _place(lines)] if line.strip()]
    if skipped:
        kept = [line for line in kept if line.partition("=")[0].strip().lower() != "headersize"]
    text = "\n".join([*kept, "ElementDataFile = LOCAL", ""])
    if _names(lines) == []:
        shutil.copyfile(header, target)
        return

    def write(name: str) -> None:
        with open(name, "wb") as out:
            out.write(text.encode("latin-1"))
            for file in data_files(header):
                with file.open("rb") as data:
                    data.seek(skipped)
                    shutil.copyfileobj(data, out)

    write_whole(target, write)


def _lines(header: Path) -> list[str]:
    with header.open("rb") as file:
        return file.read(_MOST_BYTES).decode("latin-1").splitlines()


def _place(lines: Sequence[str]) -> int:
    """Index of the line ``ElementDataFile``; the number of lines when there is none."""
    keys = [line.partition("=")[0].strip().lower() for line in lines]
    return keys.index("elementdatafile") if "elementdatafile" in keys else len(lines)


def _names(lines: Sequence[str]) -> list[str]:
    """The names of the data files; empty when the data lie in the header's own file."""
    place = _place(lines)
    value = lines[place].partition("=")[2].strip() if place < len(lines) else ""
    words = value.split()
    if not words or words[0].upper() == "LOCAL":
        return []
    if words[0].upper() == "LIST":
        return [line.strip() for line in lines[place + 1 :] if line.strip()]
    if "%" in words[0] and len(words) in (3, 4) and all(word.isdigit() for word in words[1:]):
        first, last, step = int(words[1]), int(words[2]), int(words[3]) if len(words) == 4 else 1
        return [_numbered(words[0], n) for n in range(first, min(last, first + 10_000) + 1, max(step, 1))]
    return [value]


def _numbered(pattern: str, number: int) -> str:
    return _NUMBER.sub(lambda found: found[0] % number, pattern, count=1)


def _leads_elsewhere(name: str) -> bool:
    return not name or "/" in name or "\\" in name or name in (".", "..") or "\0" in name
