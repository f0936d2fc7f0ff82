"""Fingerprints of scans: whether the scan in a file is still the one that a label was drawn on.

Size and times of the files decide as long as they are the same; then checksums of the files, for which little is read;
and the voxels only where those differ.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import UserError
from lib.formats.channels import further_files
from lib.formats.volumes import read_volume

from .detached import data_files

logger = logging.getLogger("semisam.store")

_BLOCK, _BLOCKS = 16_384, 64
"""Bytes of a piece, and how many pieces spread over a large file are looked at."""
_QUIET_SECONDS = 5
_GZIP = b"\x1f\x8b"
_GZIP_EXTRA = 1000
"""By how many bytes a packed file may be larger than its content."""

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class ScanMark:
    """The fingerprint of a scan.

    Args:
        stamp: size and times of its files: as long as they are the same, so is the scan.
        content: checksum of the files' content, the same for a copy, and for a gzip file that was packed anew.
        voxels: hash of the voxels, the same in every format and whatever else the header says; empty when they were
            not read.
    """

    stamp: Stamp
    content: str
    voxels: str = ""

    def to_json(self) -> dict[str, Any]:
        """For the notes beside a label."""
        return {"stamp": list(self.stamp), "content": self.content, **({"voxels": self.voxels} if self.voxels else {})}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ScanMark:
        """Reads ``to_json``."""
        size, changed, noted = (int(n) for n in entry["stamp"])
        return cls((size, changed, noted), str(entry["content"]), str(entry.get("voxels", "")))


class ScanMarks:
    """Marks of the study's scans; what was looked into once is remembered while the files do not change."""

    def __init__(self) -> None:
        self._contents: dict[tuple[Path, Stamp], str] = {}
        self._voxels: dict[tuple[Path, Stamp], str] = {}

    def mark(self, scan: Path) -> ScanMark | None:
        """The mark of a scan as it is now; None when it is not there, or was changed just now."""
        try:
            stamp = stamp_of_files(files_of(scan))
            content = self._content(scan, stamp)
            if stamp_of_files(files_of(scan)) != stamp:
                return None
        except OSError:
            return None
        return ScanMark(stamp, content, self._voxels.get((scan, stamp), ""))

    def read(self, scan: Path, stamp: Stamp, array: np.ndarray) -> ScanMark | None:
        """The mark with the hash of voxels ``[D, H, W]`` that were just read; None when the file has changed since."""
        mark = self.mark(scan)
        if mark is None or mark.stamp != stamp:
            return None
        self._voxels[scan, stamp] = voxel_mark(array)
        return self.mark(scan)

    def is_same(self, scan: Path, noted: ScanMark) -> bool:
        """Whether a scan is the one that was marked; True, too, when its file cannot be looked into for now."""
        try:
            stamp = stamp_of_files(files_of(scan))
            if stamp == noted.stamp or self._content(scan, stamp) == noted.content:
                return True
        except OSError:
            return True
        if not noted.voxels:
            return False
        if (scan, stamp) not in self._voxels:
            try:
                found = voxel_mark(read_volume(scan).array)
                if stamp_of_files(files_of(scan)) != stamp:
                    return found == noted.voxels
                self._voxels[scan, stamp] = found
            except (UserError, OSError) as error:
                logger.info("Whether %s is the scan of its label cannot be told: %s", scan.name, error)
                return False
        return self._voxels[scan, stamp] == noted.voxels

    def _content(self, scan: Path, stamp: Stamp) -> str:
        if (scan, stamp) not in self._contents:
            content = content_mark(files_of(scan))
            if stamp_of_files(files_of(scan)) != stamp:
                return content
            self._contents[scan, stamp] = content
        return self._contents[scan, stamp]


def files_of(scan: Path) -> list[Path]:
    """The files of a scan: one as a rule, those of a DICOM folder, a header with its data."""
    if scan.is_dir():
        return sorted(p for p in scan.iterdir() if p.is_file() and not p.name.startswith("."))
    return [scan, *data_files(scan), *(file for file in further_files(scan) if file.is_file())]


def stamp_of_files(files: Sequence[Path]) -> Stamp:
    """Size, and the latest times of the files' content (mtime) and of their inodes (ctime).

    The latter cannot be set by a program: a copy that keeps the time of its content differs, too.

    Raises:
        OSError: when a file is not there.
    """
    found = [os.stat(file) for file in files]
    times = [max((getattr(s, key) for s in found), default=0) for key in ("st_mtime_ns", "st_ctime_ns")]
    return sum(s.st_size for s in found), times[0], times[1]


def is_being_written(scan: Path) -> bool:
    """Whether a scan was changed in the last seconds."""
    try:
        return time.time() - max(stamp_of_files(files_of(scan))[1:]) / 1e9 < _QUIET_SECONDS
    except OSError:
        return True


def is_quiet(scan: Path) -> bool:
    """Whether a scan is complete and not being written: half a scan must not be marked.

    The end of a gzip file tells its whole size, a NIfTI file's header, too; others are left alone for some time.
    """
    try:
        return not is_being_written(scan) and _is_whole(scan)
    except (OSError, EOFError, ValueError, struct.error):
        return False


def _is_whole(scan: Path) -> bool:
    """Whether a NIfTI file is as long as its header says; True for all others."""
    name = scan.name.lower()
    if not name.endswith((".nii", ".nii.gz")) or not scan.is_file():
        return True
    packed = scan.open("rb").read(2) == _GZIP
    with gzip.open(scan, "rb") if packed else scan.open("rb") as file:
        header = file.read(352)
    order = "<" if struct.unpack("<i", header[:4])[0] in (348, 540) else ">"
    if struct.unpack(f"{order}i", header[:4])[0] != 348:
        return True
    dims = struct.unpack(f"{order}8h", header[40:56])
    bits = struct.unpack(f"{order}h", header[72:74])[0]
    offset = int(struct.unpack(f"{order}f", header[108:112])[0])
    size = offset + int(np.prod([max(1, n) for n in dims[1 : 1 + dims[0]]], dtype=np.int64)) * bits // 8
    if not packed:
        return scan.stat().st_size >= size
    return _gzip_size(scan) == size % 2**32 or _gzip_end(scan) is None


def _gzip_size(file: Path) -> int:
    with file.open("rb") as content:
        content.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", content.read(4))[0])


def _gzip_end(file: Path) -> tuple[int, int] | None:
    """Checksum and size of the content of a gzip file (RFC 1952, 2.3.1); None when it has more than one part."""
    size = file.stat().st_size
    if size < 18:
        return None
    with file.open("rb") as content:
        if content.read(2) != _GZIP:
            return None
        content.seek(-8, os.SEEK_END)
        checksum, length = struct.unpack("<II", content.read(8))
    # The last of several parts is shorter than the file. So is what holds more than 4 GiB, which counts from 0 again.
    return (checksum, length) if length >= size - _GZIP_EXTRA else None


def content_mark(files: Sequence[Path]) -> str:
    """A checksum of files: a gzip file's own, else the hash of pieces spread evenly over each file.

    Raises:
        OSError: when a file cannot be read.
    """
    end = _gzip_end(files[0]) if len(files) == 1 else None
    if end is not None:
        return f"gzip-{end[0]:08x}-{end[1]}"
    parts = sorted(_pieces(file) for file in files)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _pieces(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as content:
        if size <= _BLOCK * _BLOCKS:
            digest.update(content.read())
            return digest.hexdigest()
        for number in range(_BLOCKS):
            content.seek(number * (size - _BLOCK) // (_BLOCKS - 1))
            digest.update(content.read(_BLOCK))
    return digest.hexdigest()


def voxel_mark(array: np.ndarray) -> str:
    """The hash of voxels ``[D, H, W]`` float32."""
    digest = hashlib.sha256(repr(array.shape).encode())
    for plane in array:
        digest.update(np.ascontiguousarray(plane, dtype=np.float32).data)
    return digest.hexdigest()
