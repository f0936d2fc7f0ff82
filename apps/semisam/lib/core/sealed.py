"""Files with a checksum of their own, so that damage is noticed: by a power cut, a full disk, a hand."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path

from .json_files import digest_of, read_json, write_json

_SEAL = "sum"
_PIECE = 2**20


def write_sealed(path: Path, content: Mapping[str, object]) -> None:
    """Write plain types as JSON with their sum, whole or not at all; keys are texts."""
    write_json(path, {**content, _SEAL: digest_of(content)})


def read_sealed(path: Path) -> dict[str, object] | None:
    """What ``write_sealed`` wrote, None when it is missing, damaged or changed."""
    content = read_json(path)
    if content is None:
        return None
    seal = content.pop(_SEAL, None)
    return content if seal == digest_of(content) else None


def sum_of(path: Path) -> str:
    """Size and sum of a file's content.

    Raises:
        OSError: when it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
        return f"{file.tell()}-{digest.hexdigest()[:32]}"


def sums_of(folder: Path, without: Collection[str] = ()) -> dict[str, object]:
    """The sums of all files in a folder, by their path in it.

    Args:
        folder: the folder.
        without: patterns of paths that do not matter.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: sum_of(path) for name, path in files.items() if not any(fnmatch(name, p) for p in without)}


def damage_in(folder: Path, sums: Mapping[str, object]) -> str | None:
    """What is wrong with a folder's files in a few words, None when they are as ``sums_of`` saw them."""
    for name, expected in sums.items():
        try:
            found = sum_of(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found != expected:
            return f"{name} is damaged"
    return None
