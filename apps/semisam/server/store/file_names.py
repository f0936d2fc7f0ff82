"""Names of files in a study: which endings are scans and labels, and which names cannot be an id."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from lib.formats.pictures import PICTURES

from .detached import HEADER

DICOM = ".dcm"

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha", HEADER, *PICTURES, DICOM)

SEG_NRRD = ".seg.nrrd"

LABEL_EXTENSIONS = (".nii.gz", ".nii", SEG_NRRD, ".nrrd", ".mha", ".png")

NAME = re.compile(r"[^/\\\x00-\x1f\x7f\ud800-\udfff]+")

NAME_BYTES = 200
"""A file system takes 255, of which an extension and a temporary name need some."""


def split(file: str, extensions: Iterable[str] = EXTENSIONS) -> tuple[str, str]:
    """A file's name without its extension, and the extension as it is written; that is empty when none is known."""
    for extension in extensions:
        if file.lower().endswith(extension) and len(file) > len(extension):
            return file[: -len(extension)], file[-len(extension) :]
    return file, ""


def printable(name: str) -> str:
    """A file's name as a client can read it: bytes that are no UTF-8 as their hexadecimal numbers."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def bad_name(name: str) -> str | None:
    """Why a file's name cannot be a scan's, None when it can."""
    if not NAME.fullmatch(name):
        return "its name is no UTF-8 text that can be printed; rename it"
    if len(split(name)[0].encode()) > NAME_BYTES:
        return f"its name is longer than {NAME_BYTES} bytes; rename it"
    return None
