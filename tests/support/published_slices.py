"""Three real slices, prepared as LiteMedSAM's published inference does: what its golden outputs were computed from.

Only files are named here; the scans stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import nibabel
import numpy as np
import pydicom
from PIL import Image

from realdata import folder_of


def _heart() -> np.ndarray:
    """Cardiac MR of 256 x 256 pixels: the 0.5th to 99.5th percentile of what is not background."""
    scan = nibabel.load(folder_of("mscmr") / "images" / "image_1.nii.gz")
    values = np.asarray(scan.dataobj, dtype=np.float64)
    slice_ = values[:, :, values.shape[2] // 2].T
    low, high = np.percentile(values[values > 0], [0.5, 99.5])
    return ((np.clip(slice_, low, high) - low) / (high - low) * 255).astype(np.uint8)


def _liver() -> np.ndarray:
    """CT of 512 x 512 pixels, level 40 and width 400; half the resolution by the mean of 2 x 2 pixels."""
    files = sorted((folder_of("chaos_ct_dicom") / "dicom").iterdir())
    image = pydicom.dcmread(files[40])
    hounsfield = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    grey = (np.clip(hounsfield, -160, 240) + 160) / 400 * 255
    return grey.reshape(256, 2, 256, 2).mean((1, 3)).astype(np.uint8)


def _polyp() -> np.ndarray:
    """Endoscopy in colour, 256 x 256 pixels."""
    with Image.open(folder_of("polyp_cvc") / "images" / "001.jpg") as picture:
        return np.asarray(picture.convert("RGB"))


GOLDEN_SLICES: Mapping[str, Callable[[], np.ndarray]] = {"heart": _heart, "liver": _liver, "polyp": _polyp}
"""By name: the slice as ``[256, 256]`` or ``[256, 256, 3]`` bytes."""
