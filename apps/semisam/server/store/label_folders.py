"""The folders of labels: which tags there are, and which files in them are whose label."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .file_names import LABEL_EXTENSIONS, NAME, bad_name, printable, split


def label_files(
    folder: Path, left_out: dict[str, str], barred: Callable[[Path], str | None] = lambda path: None
) -> dict[str, list[str]]:
    """The names of the label files in a tag's folder, by the scan's id.

    Args:
        folder: of the tag.
        left_out: what is no label is added here, with the reason.
        barred: see ``StudyFiles``.

    Raises:
        OSError: when the folder cannot be read.
    """
    return _labels_among(sorted(os.listdir(folder)), folder, left_out, barred)


def formats_of(folder: Path, image_id: str, barred: Callable[[Path], str | None]) -> list[str]:
    """The names of the files of one scan's label in a tag's folder, in every format; none when it cannot be read."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.startswith(f"{image_id}."))
    except OSError:
        return []
    return _labels_among(names, folder, {}, barred).get(image_id, [])


def _labels_among(
    names: Iterable[str], folder: Path, left_out: dict[str, str], barred: Callable[[Path], str | None]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        image_id, extension = split(name, LABEL_EXTENSIONS)
        if name.startswith(".") or not extension:
            continue
        reason = bad_name(name)
        path = folder / name
        if reason is None and not path.is_file():
            reason = "it is no file, or a link that leads nowhere"
        if reason is None and not os.access(path, os.R_OK):
            reason = "this server's user may not read it"
        reason = reason or barred(path)
        if reason is not None:
            left_out[f"labels/{printable(folder.name)}/{printable(name)}"] = reason
            continue
        found.setdefault(image_id, []).append(name)
    return found


def tags(labels: Path, left_out: dict[str, str]) -> Iterator[str]:
    """The tags that have a folder of labels."""
    for name in sorted(os.listdir(labels)) if labels.is_dir() else ():
        path = labels / name
        if name.startswith(".") or not path.is_dir():
            continue
        if not NAME.fullmatch(name):
            left_out[f"labels/{printable(name)}"] = "its name is no UTF-8 text that can be printed; rename it"
        else:
            yield name
