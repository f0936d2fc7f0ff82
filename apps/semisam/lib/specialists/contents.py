"""Reading the content of a checkpoint from a file that nobody vouches for.

PyTorch writes a ZIP archive: a pickle that says what there is, and the numbers of each tensor as a file of their own,
uncompressed (``torch.save``, https://docs.pytorch.org/docs/stable/notes/serialization.html). With ``weights_only`` no
code of the file is run; what it may still do is declare more than fits in memory, so its directory is looked at first.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.upstream.torch_pickle import check_pickle

MOST_BYTES = 8 * 2**30
"""Size of a checkpoint at most: twenty of the largest networks there are here (SAM ViT-B, 0.4 GB)."""
_MOST_PICKLE = 16 * 2**20
_MOST_FILES = 100_000


def read_content(path: Path, most: int = MOST_BYTES, *, numbers: bool = True) -> dict[str, Any]:
    """Read a file of ``torch.save`` with plain types and tensors, without running anything that is in it.

    Args:
        path: the file.
        most: bytes that it may have.
        numbers: whether the tensors' numbers are wanted; without them they are not read, nor their sums looked at.

    Returns:
        What is in it; its tensors lie on the CPU and take no more memory than the file on the disk.

    Raises:
        ValueError: when it is no such file, is larger, or unpacks to more than it is.
        OSError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile: when it is damaged.
    """
    _look(path, most, numbers)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=not numbers)
    if not isinstance(content, dict):
        raise ValueError("not a table of facts")
    return content


def check_tensors(weights: Mapping[str, object], most: int = MOST_BYTES) -> None:
    """Raise ValueError unless these are the weights of a network: finite numbers, and each really there.

    Args:
        weights: tensors by name.
        most: bytes that all of them may have together.
    """
    total = 0
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ValueError("a weight is no tensor")
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes():  # one number, shown as millions
            raise ValueError(f"{name} is larger than what is stored of it")
        total += size
        if value.is_complex() or (value.is_floating_point() and not bool(torch.isfinite(value).all())):
            raise ValueError(f"{name} holds values that are no numbers")
    if total > most:
        raise ValueError("its weights are too large")


def _look(path: Path, most: int, numbers: bool) -> None:
    """Raise ValueError unless the archive's directory and its pickle are such as ``torch.save`` writes them."""
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{size / 2**30:.1f} GiB are more than {most / 2**30:.1f} GiB")
    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
        packed = any(file.compress_type != zipfile.ZIP_STORED for file in files)
        if packed or len(files) > _MOST_FILES or sum(file.file_size for file in files) > size:
            raise ValueError("its archive unpacks to more than it is")
        pickles = [file for file in files if file.filename.endswith(".pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _MOST_PICKLE:
            raise ValueError("no file of PyTorch")
        check_pickle(archive.read(pickles[0]))
        if numbers and archive.testzip() is not None:  # PyTorch writes sums of all numbers, but does not look at them
            raise ValueError("its numbers are not those that were written")
