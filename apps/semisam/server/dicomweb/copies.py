"""The copies that the cache has of a DICOM server's labels, each bound to the SEG it is of.

A SEG never changes, and its UID is in the name of its copy, with the structures that gave the values: what the values
of a file mean follows from its name and the SEG alone. Whoever makes it makes the same, whatever another process noted
before, and however often the cache was deleted in between.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.formats.label_files import read_label
from lib.formats.volumes import write_label

from .labels import ANY

EXTENSION = ".nii.gz"
_MARK = "@"
"""No DICOM UID has it."""
_NAME = re.compile(rf"([0-9.]+?)({_MARK}[0-9a-f]+)?(\.[a-z]+)+")
"""A label's file: the scan's UID, the mark of a copy, the format."""


class LabelCopies:
    """Names of copies, and how they are written and deleted.

    Args:
        folder: the cache.
        schema: the structures if they are set.
    """

    def __init__(self, folder: Path, schema: LabelSchema | None) -> None:
        self._folder = folder / "labels"
        self._names = () if schema is None else schema.names

    def path(self, scan: str, tag: str, seg: str) -> Path:
        """Where the copy of a SEG is.

        Args:
            scan: UID of its series.
            tag: whose label it is.
            seg: the SEG's own UID.
        """
        digest = hashlib.sha256("\n".join([seg, *self._names]).encode()).hexdigest()[:16]
        return self._folder / tag / f"{scan}{_MARK}{digest}{EXTENSION}"

    def put(self, path: Path, label: np.ndarray, scan: Volume, like: Path | None = None) -> None:
        """Write a copy, whole or not at all.

        Args:
            path: where to.
            label: ``[D, H, W]`` uint8, as the SEG has it.
            scan: its scan.
            like: the file that the SEG was made of: taken as it is if it says the same.
        """
        if like is not None and like.name.endswith(EXTENSION) and _same(like, label, scan):
            write_whole(path, lambda name: shutil.copyfile(like, name))
        else:
            write_label(path, label, scan.affine)

    def delete(self, scan: str, tag: str, keep: Path | None = None) -> None:
        """Delete all files of a scan's label but one."""
        folder = self._folder / tag
        for path in folder.iterdir() if folder.is_dir() else ():
            # A UID may begin with another one.
            found = _NAME.fullmatch(path.name)
            if found and found[1] == scan and path != keep:
                path.unlink(missing_ok=True)


def _same(file: Path, label: np.ndarray, scan: Volume) -> bool:
    try:
        return bool(np.array_equal(read_label(file, scan, ANY), label))
    except UserError:
        return False
