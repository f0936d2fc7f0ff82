"""Temporary files: named so that those of a killed process can be told from those that are being written."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import time
from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

log = logging.getLogger("semisam.files")

_MARK = ".part-"
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_NAME = re.compile(r"\.part-([0-9a-f]{6})-(\d+)-")
_OLD_SECONDS = 3600.0
"""Age from which on a file counts as left over when it cannot be asked whose it is: no file takes so long to write."""
_SLACK_SECONDS = 2.0
"""Clocks of files and of processes differ by less."""


def part_prefix() -> str:
    """How the temporary files of this process begin: says the machine and the process."""
    return f"{_MARK}{_HOST}-{os.getpid()}-"


def remove_leftovers(folders: Iterable[Path]) -> list[Path]:
    """Remove the temporary files that killed processes have left directly in these folders.

    Args:
        folders: they need not be there.

    Returns:
        What was removed.
    """
    removed = []
    for folder in folders:
        try:
            files = [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(_MARK)]
        except OSError:
            continue
        removed += [path for path in files if _is_left_over(path) and _unlink(path)]
    if removed:
        log.info("Removed what killed processes had half written: %s", ", ".join(str(path) for path in removed))
    return removed


def _is_left_over(path: Path) -> bool:
    try:
        if path.is_symlink() or not path.is_file():
            return False
        written = path.stat().st_mtime
    except OSError:
        return False
    known = _NAME.match(path.name)
    if known is None or known[1] != _HOST:
        return time.time() - written > _OLD_SECONDS
    try:
        # Numbers are used again: one that was started later cannot have begun this file.
        return bool(psutil.Process(int(known[2])).create_time() > written + _SLACK_SECONDS)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except OSError as error:
        log.debug("%s stays: %s", path, error)
        return False
    return True
