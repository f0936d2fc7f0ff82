"""The pixels of a series' planes as real values.

Each plane has its own rescale slope and intercept (Modality LUT Module, PS3.3 C.11.1): a PET series has as many as
slices. Pixels that lie in the file as they are are read from there; compressed ones are decoded by ITK.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
)

from lib.core.errors import UserError
from lib.core.files import BRIEFLY
from lib.formats.limits import check_voxels

from .headers import damaged
from .slices import Slice, Storage


def read_planes(slices: Sequence[Slice]) -> Iterator[np.ndarray]:
    """The planes' real values, each ``[rows, columns]`` float32, in the order of ``slices``.

    Raises:
        UserError: (422) when a file is cut short or cannot be decoded.
    """
    path, frames = Path(), np.empty(0)
    for each in slices:
        if each.storage.offset is not None:
            stored = _plain(each)
        else:
            if each.path != path:
                path, frames = each.path, _decoded(each)
            stored = frames[each.frame or 0]
        yield _real(stored, each)


def same_pixels(one: Slice, other: Slice) -> bool:
    """Whether two planes show the same."""
    a, b = read_planes([one, other])
    return bool(np.array_equal(a, b))


def _real(stored: np.ndarray, plane: Slice) -> np.ndarray:
    storage = plane.storage
    if storage.inverted:
        least = -(1 << (storage.bits - 1)) if storage.signed else 0
        stored = 2 * least + (1 << storage.bits) - 1 - stored.astype(np.int64)
    slope, intercept = plane.rescale or (1.0, 0.0)
    if (slope, intercept) == (1.0, 0.0):
        return stored.astype(np.float32)
    return (stored * slope + intercept).astype(np.float32)  # a number of Python's: in float64


def _plain(plane: Slice) -> np.ndarray:
    storage, count = plane.storage, plane.rows * plane.columns
    if storage.allocated not in (8, 16, 32):
        raise _undecodable(plane)
    dtype = np.dtype(f"<{'i' if storage.signed else 'u'}{storage.allocated // 8}")
    start = (storage.offset or 0) + (plane.frame or 0) * count * dtype.itemsize
    values = np.fromfile(plane.path, dtype=dtype, count=count, offset=start)
    if len(values) < count:
        raise damaged(plane.path)
    return _clean(values.reshape(plane.rows, plane.columns), storage)


def _clean(values: np.ndarray, storage: Storage) -> np.ndarray:
    """Values without the bits beyond those that count, in which old files keep drawings."""
    unused = storage.allocated - storage.bits
    return values if unused <= 0 else (values << unused) >> unused


def _decoded(plane: Slice) -> np.ndarray:
    """All frames of a file, as stored: ``[frames, rows, columns]``."""
    check_voxels((plane.columns, plane.rows, plane.storage.frames), plane.path.name)
    try:
        dataset = pydicom.dcmread(plane.path, force=True)
        compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
        frames = _by_itk(dataset) if compressed and "Deflated" not in plane.storage.syntax else None
        if frames is None or frames.size != plane.storage.frames * plane.rows * plane.columns:
            dataset.SamplesPerPixel = int(dataset.get("SamplesPerPixel") or 1)
            frames = dataset.pixel_array
        frames = np.asarray(frames).reshape(plane.storage.frames, plane.rows, plane.columns)
    except Exception as error:
        # pydicom and ITK raise many kinds of errors, among them NotImplementedError for unknown compressions.
        raise _undecodable(plane) from error
    return frames


def _undecodable(plane: Slice) -> UserError:
    return UserError(
        f"The pixels of {plane.text} cannot be decoded: the file is cut short or damaged, or its compression is not "
        "known here. Export the series again, uncompressed.",
        status=422,
    )


def _by_itk(dataset: pydicom.Dataset) -> np.ndarray:
    """Compressed frames, decoded without any rescaling: of a copy that has nothing but the pixels."""
    import itk

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = (
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage
        if int(dataset.BitsAllocated) == 8
        else MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    )
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    bare.SOPClassUID, bare.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(bare, name, int(dataset[name].value))
    bare.SamplesPerPixel, bare.PhotometricInterpretation = 1, "MONOCHROME2"
    bare.NumberOfFrames = int(dataset.get("NumberOfFrames") or 1)
    bare.is_little_endian, bare.is_implicit_VR = True, False
    bare.PixelData = dataset.PixelData
    bare["PixelData"].VR, bare["PixelData"].is_undefined_length = "OB", True
    handle, name = tempfile.mkstemp(prefix=BRIEFLY, suffix=".dcm")
    os.close(handle)
    try:
        bare.save_as(name)
        return np.array(itk.array_view_from_image(itk.imread(name, imageio=itk.GDCMImageIO.New())))
    finally:
        os.unlink(name)
