"""Features on disk: every scan is encoded once for each model.

A file's name is a hash of all that its features depend on: the scan's content, shape and spacing, the model, its
weights, and how it prepares a scan. Files are written whole, hold half precision, and those that were not used for the
longest time go first. Several processes may share a folder. Losing it costs time, nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.core.files import write_whole

from .base import Generalist

_LOG = logging.getLogger("semisam.features")

_FORMAT = 2
_HEADER = struct.Struct("<4sII4I")  # mark, format, checksum of the values, shape
_MARK = b"ssfc"
_SUFFIX = ".feat"
_LEFT_OVER_SECONDS = 3600.0
DEFAULT_LIMIT = 20 * 2**30
"""Bytes a cache may take unless told otherwise."""


class FeatureCache:
    """Features of scans in a folder of bounded size.

    It takes no more than ``limit_bytes``, and leaves free at least half of what it and the disk's free space are
    together: a training must not fail because of it.

    Args:
        folder: where; made when needed.
        limit_bytes: bound.
    """

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.encodes = 0
        """Scans that had to be encoded."""
        self.hits = 0
        """Scans whose features were there."""

    def encode(self, generalist: Generalist, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """What ``generalist.encode`` gives, rounded to half precision (also the first time, so that runs agree).

        A model may say more of what its features depend on: ``weights_hash`` and ``preprocessing``, both texts.
        """
        about = [*_about(generalist), " ".join(f"{s:.6g}" for s in spacing)]
        content = image.detach().to("cpu", torch.float32).contiguous().numpy()
        return self.keep(about, content, lambda: generalist.encode(image, spacing))

    def keep(self, about: Sequence[str], content: np.ndarray, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, rounded to half precision, from disk if it is there.

        Args:
            about: the model's name, and all else that the features depend on beside the scan.
            content: the scan, float32.
            make: encodes the scan, ``[C, d, h, w]``.
        """
        path = self.folder / (_key(about, content) + _SUFFIX)
        known = _read(path)
        if known is not None:
            self.hits += 1
            return known
        self.encodes += 1
        features = make().detach()
        half = features.to("cpu", torch.float16)
        if not bool(torch.isfinite(half).all()):
            _LOG.warning("Features of %s do not fit into half precision; they are not kept", about[0])
            return features
        self._write(path, half)
        return half.float()

    def _write(self, path: Path, half: Tensor) -> None:
        values = half.contiguous().numpy()
        size = _HEADER.size + values.nbytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(size):
                return
            header = _HEADER.pack(_MARK, _FORMAT, zlib.crc32(values.data), *values.shape)

            def write(temporary: str) -> None:
                with open(temporary, "wb") as file:
                    file.write(header)
                    file.write(values.data)

            write_whole(path, write)
        except (OSError, UserError) as error:
            # The features are there; that they cannot be kept must not stop the work.
            _LOG.warning("Features cannot be kept in %s: %s", self.folder, error)

    def _make_room(self, size: int) -> bool:
        """Remove what was not used for the longest time until ``size`` more bytes fit; False when they never do."""
        files = []
        for entry in os.scandir(self.folder):
            try:
                stat = entry.stat()
                if entry.name.startswith(".part-"):
                    if time.time() - stat.st_mtime > _LEFT_OVER_SECONDS:  # of a killed process
                        os.unlink(entry.path)
                elif entry.name.endswith(_SUFFIX):
                    files.append((stat.st_mtime_ns, stat.st_size, entry.path))
            except FileNotFoundError:
                continue  # another process was faster
        used = sum(n for _, n, _ in files)
        limit = min(self.limit_bytes, (used + shutil.disk_usage(self.folder).free) // 2)
        if size > limit:
            return False
        for _, n, path in sorted(files):
            if used + size <= limit:
                break
            Path(path).unlink(missing_ok=True)
            used -= n
        return True


def _about(generalist: Generalist) -> list[str]:
    """What features depend on beside the scan; the name comes first."""
    return [
        generalist.name,
        str(getattr(generalist, "weights_hash", "")),
        str(getattr(generalist, "preprocessing", "")),
    ]


def _key(about: Sequence[str], content: np.ndarray) -> str:
    # NIfTI arrays have their axes in memory the other way round: hashed as they lie, which spares a copy.
    order = "F" if content.flags.f_contiguous and not content.flags.c_contiguous else "C"
    size = "x".join(str(n) for n in content.shape)
    digest = hashlib.sha256("\n".join([str(_FORMAT), *about, size, order]).encode())
    digest.update(content.T.data if order == "F" else np.ascontiguousarray(content).data)
    return digest.hexdigest()


def _read(path: Path) -> Tensor | None:
    """Features from a file, None when it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            mark, number, checksum, *shape = _HEADER.unpack(file.read(_HEADER.size))
            if (mark, number) != (_MARK, _FORMAT):
                return None
            values = np.fromfile(file, dtype="<f2")
        if zlib.crc32(values.data) != checksum:
            return None
        features = torch.from_numpy(values.reshape(shape)).float()
        with suppress(OSError):  # a folder that only others may write to
            os.utime(path)  # used now: the last one to go
        return features
    except FileNotFoundError:
        return None
    except (OSError, ValueError, struct.error) as error:
        _LOG.warning("%s cannot be read and is made again (%s)", path.name, error)
        return None


class CachedGeneralist:
    """A generalist that encodes no scan twice.

    Args:
        generalist: any; what else it can do is found through ``resident.unwrap``.
        cache: where features are kept.
        own: keep the model's own features. Off for one that is quick and fine like MIND: most of its uses would gain
            nothing for 5 to 10 MB a scan; only what is made of them (``derived``) is kept then.
        for_volumes: describes volumes in its place, see ``describing``.
    """

    def __init__(
        self,
        generalist: Generalist,
        cache: FeatureCache,
        *,
        own: bool = True,
        for_volumes: Generalist | None = None,
    ) -> None:
        self.name = generalist.name
        self.inner = generalist
        self.for_volumes = for_volumes
        self.cache = cache
        self.own = own

    @property
    def weights_hash(self) -> str:
        """The sha256 of the model's file, empty when it has none."""
        return str(getattr(self.inner, "weights_hash", ""))

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """See ``Generalist``; half precision when ``own`` features are kept."""
        return self.cache.encode(self.inner, image, spacing) if self.own else self.inner.encode(image, spacing)

    def derived(self, make: Callable[[Generalist], Tensor], scan: np.ndarray, about: str) -> Tensor:
        """Features that are worked on further, kept as such; half precision.

        Known by the scan itself: when they are there, it need not even be brought to a working grid.

        Args:
            make: takes the model within and gives ``[C, d, h, w]``.
            scan: ``[D, H, W]`` float32.
            about: what is done with scan and features.
        """
        return self.cache.keep([*_about(self.inner), about], scan, lambda: make(self.inner))

    def release(self) -> None:
        """Free the model's memory, if it can be loaded again."""
        release = getattr(self.inner, "release", None)
        if release is not None:
            release()


def describing(generalist: Generalist, *, flat: bool) -> Generalist:
    """Who gives the features of a scan: the generalist, or on volumes the one that describes them in its place.

    Args:
        generalist: the one that gives features.
        flat: the scan is a 2D image.
    """
    instead: Generalist | None = getattr(generalist, "for_volumes", None)
    return generalist if flat or instead is None else instead
