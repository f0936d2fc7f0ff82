"""NIfTI files: their headers, and their values.

https://nifti.nimh.nih.gov, nifti1.h and nifti2.h. Values are not read by ITK, which fills up what is cut short with
zeros, and takes the values of ``a.nii.gz`` from an ``a.nii`` that lies beside it.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from lib.core.errors import UserError
from lib.core.files import size_text, unreadable

from .channels import channels
from .itk_images import DENSEST
from .limits import check_voxels

ENDINGS = (".nii", ".nii.gz")
_GZIP = b"\x1f\x8b"
_MOST_OFFSET = 64 * 2**20
"""Bytes before the values: header and notes of programs."""


@dataclass(frozen=True, eq=False)
class NiftiFile:
    """A file's header, and where its values begin."""

    path: Path
    header: Nifti1Header
    packed: bool
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


def open_nifti(path: Path) -> NiftiFile:
    """Look at a header; nothing else is read or unpacked.

    Raises:
        UserError: (422) when it is none, holds several volumes or a type of voxel that is unknown, or the file is too
            short for what it promises; (413) when the scan is too large, see ``lib.formats.limits``.
    """
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    if packed and not path.name.lower().endswith(".gz"):
        raise UserError(
            f"{path.name} is packed with gzip, though its name ends with .nii: 3D Slicer does not open it, either. "
            f"Rename it to {path.name}.gz.",
            status=422,
        )
    with _opened(path, packed) as file:
        head = file.read(Nifti2Header.template_dtype.itemsize)
    if packed and head[:2] == _GZIP:
        raise UserError(f"{path.name} is packed twice with gzip. Unpack it once (gunzip).", status=422)
    header = _parse(head, path)
    shape, dtype = _shape(header, path), _dtype(header, path)
    check_voxels(shape, path.name, dtype.itemsize)
    given, least = float(header["vox_offset"]), header.template_dtype.itemsize
    offset = max(least, int(given)) if math.isfinite(given) else least  # as ITK
    needed = offset + math.prod(shape) * dtype.itemsize
    there = path.stat().st_size * (DENSEST if packed else 1)
    if there < needed or offset > _MOST_OFFSET:
        raise unreadable(path, f"{there} bytes at most, {needed} are needed")
    return NiftiFile(path, header, packed, shape, dtype, offset)


def read_values(nifti: NiftiFile) -> np.ndarray:
    """The values, scaled as the header says: float32 then, else of the file's type.

    Raises:
        EOFError, OSError, zlib.error: when the file is damaged or cut short.
    """
    content = bytearray(math.prod(nifti.shape) * nifti.dtype.itemsize)
    with _opened(nifti.path, nifti.packed) as file:
        file.seek(nifti.offset)
        view, done = memoryview(content), 0
        while done < len(content):
            count = file.readinto(view[done : done + 2**26])
            if not count:
                raise EOFError(f"{done} bytes of values, {len(content)} are needed")
            done += count
        if nifti.packed:
            _check_sum(file, len(content) + _MOST_OFFSET)
    array = np.frombuffer(content, dtype=nifti.dtype).reshape(nifti.shape, order="F")
    slope, inter = float(nifti.header["scl_slope"]), float(nifti.header["scl_inter"])
    if not math.isfinite(slope) or slope == 0 or array.dtype.kind not in "iuf":
        return array  # nifti1.h: a slope of 0 means that nothing is scaled
    inter = inter if math.isfinite(inter) else 0.0
    if (slope, inter) == (1.0, 0.0):
        return array
    scaled = array.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(inter)
    return scaled


def _opened(path: Path, packed: bool) -> io.BufferedIOBase:
    return gzip.open(path) if packed else path.open("rb")


def _check_sum(file: io.BufferedIOBase, most: int) -> None:
    """Read on to the check sum behind the values. Damage may have made more of them than there were.

    Args:
        file: where the values end.
        most: how many bytes are read on at most.

    Raises:
        EOFError, gzip.BadGzipFile, zlib.error: when the file is damaged or cut short.
    """
    try:
        while most > 0 and (block := file.read(2**20)):
            most -= len(block)
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" not in str(error):  # something else behind the check sum
            raise


def _parse(head: bytes, path: Path) -> Nifti1Header:
    for kind in (Nifti1Header, Nifti2Header):
        size = kind.template_dtype.itemsize
        for endian in "<>":
            if len(head) >= size and struct.unpack(f"{endian}i", head[:4])[0] == size:
                header = kind(head[:size], endianness=endian, check=False)
                if bytes(header["magic"].item())[:2] in (b"n+", b"ni"):
                    return header
                raise UserError(
                    f"{path.name} has the header of an older format (Analyze 7.5), which does not tell left from "
                    "right. Convert it to NIfTI with the program that made it.",
                    status=422,
                )
    raise unreadable(path, "no NIfTI header")


def _shape(header: Nifti1Header, path: Path) -> tuple[int, ...]:
    """Sizes of a single volume or plane: two or three numbers; four where scans have as many channels."""
    sizes = [int(n) for n in header["dim"]]
    count = sizes[0]
    shape = sizes[1 : 1 + count] if 1 <= count <= 7 else []
    while len(shape) > 3 and shape[-1] in (0, 1):
        shape.pop()
    if len(shape) < 2 or min(shape) < 1:
        raise unreadable(path, f"the sizes in its header are {sizes}")
    if len(shape) > 3 and not (len(shape) == 4 and shape[3] == len(channels())):
        raise UserError(
            f"{path.name} has the shape {size_text(tuple(shape))}; a three-dimensional, single-channel scan is needed. "
            "Split time series or colour channels into single volumes, and give 2D images as PNG, JPEG or DICOM.",
            status=422,
        )
    return tuple(shape)


def _dtype(header: Nifti1Header, path: Path) -> np.dtype:
    try:
        return np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise unreadable(path, f"unknown type of voxels, code {int(header['datatype'])}") from error
