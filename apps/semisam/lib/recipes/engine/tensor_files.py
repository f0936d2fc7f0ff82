"""Tensors on disk, written whole, and the most recently used ones in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from lib.core.files import write_whole

T = TypeVar("T")


def save_tensors(path: Path, content: object) -> None:
    """Write tensors and plain types, whole or not at all."""

    def write(temporary: str) -> None:
        # Through a file object: torch turns a full disk into a RuntimeError when it writes to a path itself.
        with open(temporary, "wb") as file:
            torch.save(content, file)

    write_whole(path, write)


def packed_whole(path: Path) -> bool:
    """Whether a file of ``save_tensors`` is there, and holds what was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what ``save_tensors`` wrote."""
    return cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))


def save_arrays(path: str, arrays: dict[str, np.ndarray]) -> None:
    """What ``np.savez_compressed`` writes, in less than half of the time and a fiftieth larger."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


class TensorCache:
    """The most recently used values, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._items: OrderedDict[str, tuple[object, int]] = OrderedDict()

    def get(self, key: str, load: Callable[[], T], tensor: Callable[[T], Tensor]) -> T:
        """The value of ``key``, loaded if it is not there; ``tensor`` gives its largest part."""
        if key in self._items:
            self._items.move_to_end(key)
            return cast("T", self._items[key][0])
        value = load()
        main = tensor(value)
        size = int(main.numel() * main.element_size() * 1.5)
        self._items[key] = (value, size)
        self._used += size
        while self._used > self._most and len(self._items) > 1:
            _, (_, freed) = self._items.popitem(last=False)
            self._used -= freed
        return value
