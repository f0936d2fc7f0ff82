"""How large a scan may be: looked at in its header, before anything of it is read or unpacked.

A compressed file of a MiB can unpack to many GiB, and a server that reads it is killed by its system.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from lib.core.errors import UserError

LEAST_VOXELS = 1_000_000
"""The lowest limit that may be set."""
MOST_CHANNELS = 16
"""Channels of a scan, at most."""

_BYTES_A_VOXEL = 32
"""Of the machine's memory that the default limit has in store: a scan is read (up to 8 bytes a voxel), kept as float32,
laid beside an outlined one and brought to a working grid, and a training may do so beside the server."""
_FALLBACK_BYTES = 8 * 2**30
_FLOAT32 = 4

_limit: int | None = None


def set_limit(voxels: int | None) -> None:
    """Set the limit for this process; None takes the default, which depends on the machine's memory."""
    global _limit  # noqa: PLW0603 (one process serves one study)
    _limit = voxels


def limit() -> int:
    """The most voxels that a scan may have here."""
    return _limit or max(LEAST_VOXELS, _memory() // _BYTES_A_VOXEL)


def check_voxels(shape: Sequence[int], name: str, bytes_each: int = _FLOAT32) -> None:
    """Refuse what is too large, by what its header says.

    Args:
        shape: numbers of voxels along all axes, those for time, frames and files included.
        name: of the file or folder, for the message.
        bytes_each: bytes that a voxel takes in the file; one that takes more than four counts in proportion.

    Raises:
        UserError: (413) with size, limit, and how to raise it.
    """
    sizes = [int(n) for n in shape]
    count = math.prod(max(0, n) for n in sizes)
    weighed = count * max(bytes_each, _FLOAT32) // _FLOAT32
    if weighed <= limit():
        return
    size = " x ".join(str(n) for n in sizes) + (f" ({bytes_each} bytes each)" if bytes_each > _FLOAT32 else "")
    raise UserError(
        f"{name} has {size} voxels by its header, {_millions(count)} million in all; this server reads at most "
        f"{_millions(limit())} million. If the size is right, let the administrator give the server the memory and "
        f"raise the limit: --conf max_voxels {weighed}. If it is not, export the scan again.",
        status=413,
    )


def check_grid(shape: Sequence[int], spacing: Sequence[float]) -> None:
    """Refuse a working grid that is too large: a scan whose lengths are of another unit than the specialist's.

    Args:
        shape: numbers of voxels.
        spacing: their size in mm.

    Raises:
        UserError: (413) with size, limit, and what to look at.
    """
    count = math.prod(int(n) for n in shape)
    if count <= limit():
        return
    raise UserError(
        f"At the voxel size that the specialist works at ({' x '.join(f'{s:.3g}' for s in spacing)} mm) this scan has "
        f"{' x '.join(str(int(n)) for n in shape)} voxels, {_millions(count)} million in all; this server works on at "
        f"most {_millions(limit())} million. Check the voxel size of this scan and of the outlined ones. If they are "
        "right, train with another voxel size (spacing), or let the administrator raise the limit: --conf max_voxels.",
        status=413,
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 10_000_000 else f"{count / 1e6:,.2f}"


@lru_cache(maxsize=1)
def _memory() -> int:
    """Bytes of memory that this process may have: the machine's, or those of its container if these are fewer."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        machine = 0
    return min([size for size in (machine, *_container_limits()) if size > 0], default=_FALLBACK_BYTES)


def _container_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Limits of this process's control groups and of those around them (Linux, control groups 1 and 2)."""
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        folder = base / place.strip("/")
        for group in (folder, *folder.parents):
            if base in (group, *group.parents):
                found.append(_number(group / file))
    return [size for size in found if size]


def _number(file: Path) -> int:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
