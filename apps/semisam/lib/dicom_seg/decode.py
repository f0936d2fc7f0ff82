"""The frames of a DICOM SEG as arrays, also in the compressions for single bits that pydicom 2 does not know.

In RLE (PS3.5, annex G) and in frames that are deflated each by itself (PS3.5, A.4.14), eight pixels lie in a byte, and
each frame begins with a new one.
"""

from __future__ import annotations

import logging
import zlib

import numpy as np
import pydicom
from pydicom.encaps import generate_pixel_data_frame
from pydicom.uid import RLELossless

from lib.core.errors import UserError

logger = logging.getLogger("semisam.dicom_seg")

DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"


def frames_of(dataset: pydicom.Dataset) -> np.ndarray:
    """The frames of a SEG ``[frames, rows, columns]``.

    Raises:
        UserError: (422) when they are damaged, or compressed in a way that is not known here.
    """
    try:
        syntax = str(getattr(dataset, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID", ""))
        bits = int(dataset.BitsAllocated)
        if syntax == DEFLATED_FRAMES or (syntax == RLELossless and bits == 1):
            return _encapsulated(dataset, deflated=syntax == DEFLATED_FRAMES)
        pixels = dataset.pixel_array
    except Exception as error:
        # pydicom raises many kinds of errors, among them NotImplementedError for unknown compressions.
        logger.warning("A DICOM SEG cannot be decoded: %s: %s", type(error).__name__, error)
        raise UserError(
            "The DICOM SEG cannot be decoded: it is damaged, or compressed in a way that is not known here. "
            "Store it again, uncompressed.",
            status=422,
        ) from error
    result: np.ndarray = pixels[None] if pixels.ndim == 2 else pixels
    return result


def _encapsulated(dataset: pydicom.Dataset, *, deflated: bool) -> np.ndarray:
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    one_bit, size = int(dataset.BitsAllocated) == 1, rows * columns
    expected = (size + 7) // 8 if one_bit else size
    frames = np.zeros((count, rows, columns), dtype=np.uint8)
    for frame, coded in zip(frames, generate_pixel_data_frame(dataset.PixelData, count), strict=True):
        plain = zlib.decompressobj(-15).decompress(coded, expected + 1) if deflated else _run_lengths(coded)
        values = np.frombuffer(plain, np.uint8, expected)
        frame[...] = (np.unpackbits(values, count=size, bitorder="little") if one_bit else values).reshape(
            rows, columns
        )
    return frames


def _run_lengths(coded: bytes) -> bytes:
    """The bytes of a frame of one segment of run lengths: a count, and what is copied or repeated."""
    at, plain = int.from_bytes(coded[4:8], "little"), bytearray()
    while at + 1 < len(coded):
        count = coded[at]
        if count < 128:
            plain += coded[at + 1 : at + 2 + count]
            at += 2 + count
        else:
            plain += coded[at + 1 : at + 2] * (257 - count if count > 128 else 0)
            at += 2 if count > 128 else 1
    return bytes(plain)
