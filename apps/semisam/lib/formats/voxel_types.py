"""Which voxel types can be read as intensities; and whatever else goes wrong while a file is read, in words.

NIfTI (nifti1.h, ``datatype``) knows colours (RGB24, RGBA32) and complex numbers beside plain ones; NRRD and MetaImage
hold vectors.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from lib.core.errors import UserError

logger = logging.getLogger("semisam.volumes")

P = ParamSpec("P")
R = TypeVar("R")

_COLOURS = ({"r", "g", "b"}, {"r", "g", "b", "a"})


_SHORT, _FLOAT = 2**15, 2**24
"""What int16 holds, and up to where float32 holds every whole number."""


def exact_type(array: np.ndarray, *, wide: bool = False) -> type[np.generic]:
    """The smallest type that holds the values of a float32 array as they are: int16, or else float32.

    Args:
        array: of a scan.
        wide: int32 for larger whole numbers.
    """
    if not np.array_equal(array, np.rint(array)):
        return np.float32
    least, largest = float(array.min()), float(array.max())
    if least >= -_SHORT and largest < _SHORT:
        return np.int16
    return np.int32 if wide and max(-least, largest) < _FLOAT else np.float32


def scalar_voxels(array: np.ndarray, name: str) -> np.ndarray:
    """The array, if each of its voxels holds one real number; whole numbers and floats of any size, and booleans.

    Args:
        array: as a reader gives it.
        name: of the file, for the message.

    Raises:
        UserError: (422) for colours, complex numbers and other voxels of several values.
    """
    kind = array.dtype.kind
    if kind in "iuf":
        return array
    if kind == "b":
        return array.astype(np.uint8)
    fields = {str(field).lower() for field in array.dtype.names or ()}
    if fields in _COLOURS:
        raise UserError(
            f"{name} is in colour: each voxel holds {len(fields)} values (red, green, blue). Scans with one value a "
            "voxel are needed: export the grey-scale scan instead of its colour picture.",
            status=422,
        )
    if kind == "c":
        raise UserError(
            f"{name} holds complex numbers, as raw data of a scanner do. Export its magnitude as a scan of its own.",
            status=422,
        )
    raise UserError(
        f"{name} has voxels of several values or of an unknown type ({array.dtype}). "
        "Export it with one number a voxel.",
        status=422,
    )


def in_words(read: Callable[P, R]) -> Callable[P, R]:
    """Make a reader's every failure a ``UserError`` (422) that names the file, its first argument.

    Readers of medical images raise many kinds of errors, and one unreadable scan must not end the work on the others.
    The log has the error itself. Too little memory is no fault of the file.
    """

    @functools.wraps(read)
    def reader(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(*args, **kwargs)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            first = args[0] if args else next(iter(kwargs.values()))
            name = Path(first).name if isinstance(first, (str, PathLike)) else "The file"
            logger.warning("%s cannot be read", name, exc_info=error)
            text = f"{name} cannot be read. Copy or export it again; the log has more."
            raise UserError(text, status=422) from error

    return reader
