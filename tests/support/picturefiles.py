"""2D images for tests, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

PICTURE_LABELS = ("disc", "bar")


def tiny_picture(number: int, width: int = 72, height: int = 56) -> tuple[np.ndarray, np.ndarray]:
    """A disc and a bar in noise; colours ``[rows, columns, 3]`` and label ``[rows, columns]`` of picture ``number``."""
    random = np.random.default_rng([9, number])
    rows, columns = np.mgrid[:height, :width].astype(float)
    unit = width / 72
    down, right = random.uniform(-2, 2, 2) * unit
    disc = (rows - 22 * unit - down) ** 2 + (columns - 24 * unit - right) ** 2 < (random.uniform(11, 13) * unit) ** 2
    bar = (abs(rows - 38 * unit - down) < 10 * unit) & (abs(columns - 56 * unit - right) < 5 * unit)
    image = random.normal(90, 7, (height, width, 3))
    image[disc] += (90, 30, -10)
    image[bar] += (-70, -30, 60)
    return image.clip(0, 255).astype(np.uint8), np.where(disc, 1, np.where(bar, 2, 0)).astype(np.uint8)


def save_picture(path: Path, pixels: np.ndarray) -> Path:
    """Write ``[rows, columns(, 3)]``; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_dicom_image(path: Path, pixels: np.ndarray, modality: str, *, photometric: str = "") -> Path:
    """Write a single DICOM image without a place in the patient; ``[rows, columns]``, in colour ``[..., 3]``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = pixels.ndim == 3
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID, file.StudyInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    file.Modality, file.PatientID, file.InstanceNumber = modality, "synthetic", 1
    file.Rows, file.Columns = pixels.shape[:2]
    file.SamplesPerPixel = 3 if colour else 1
    file.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    if colour:
        file.PlanarConfiguration = 0
    else:
        file.PixelSpacing = [0.5, 0.25]  # between rows first
    bits = 8 * pixels.dtype.itemsize
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = bits, bits, bits - 1, 0
    file.is_little_endian, file.is_implicit_VR = True, False
    file.PixelData = np.ascontiguousarray(pixels).tobytes()
    file.save_as(path)
    return path
