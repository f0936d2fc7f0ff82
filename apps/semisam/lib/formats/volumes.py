"""A scan with its geometry, read from and written to files.

A 2D image (PNG, JPEG, a DICOM file that is no slice of a volume) is a scan of one slice, ``[W, H, 1]``. A picture
without a place in the patient lies as ITK and 3D Slicer put it: columns towards the patient's left, rows towards the
back, the first pixel's centre at the origin. So labels drawn in Slicer fit.

Where a scan lies is what ITK, and with it 3D Slicer, makes of its file, see ``lib.formats.nifti_places``: answers lie
on the scan where people see it, and what they draw there fits.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from lib.core.errors import UserError
from lib.core.files import check_there, size_text, unreadable, write_whole
from lib.core.geometry import MOST_SHIFT, Volume, corner_shift, straightened
from lib.dicom_series import SLICES, find_stack, is_dicom, kept_notes, read_stack

from .channels import channels, further_files, volumes_in, with_channels
from .images import Loaded, load, may_be_dicom, volume_of
from .itk_images import write_nrrd
from .nifti import ENDINGS as NIFTI_ENDINGS
from .pictures import is_picture, read_picture, split_colour, write_picture_label
from .voxel_types import exact_type, in_words

logger = logging.getLogger("semisam.scans")


@in_words
def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a scan: NIfTI, NRRD, MHA/MHD, one DICOM file or a folder with one DICOM series; or a 2D image, see above.

    Where scans have several channels (``lib.formats.channels``), all of them are read.

    Raises:
        UserError: (404) when the file is missing; (413) when it is larger than ``lib.formats.limits`` allows; (422)
            when it is cut short, neither a three-dimensional single-channel image nor a 2D image, holds non-finite
            values or one value only.
    """
    path = Path(path)
    scan = _read_picture(path) if is_picture(path) else _read_scan(path)
    scan = replace(scan, notes=(*scan.notes, *kept_notes(path)))
    if not scan.flat:
        scan = with_channels(scan, path, _read_scan)
    _check_values(scan.array, path.name)
    for number, each in enumerate(scan.further):
        files = further_files(path)
        _check_values(each, files[number].name if files else f"{path.name}, channel {channels()[number + 1]}")
    for note in scan.notes:
        _say_once(path.name, note)
    return scan


def _check_values(array: np.ndarray, name: str) -> None:
    """Raise UserError (422) for values that are no numbers, or all the same."""
    least, largest = float(array.min()), float(array.max())  # NaN where one is: no map of a large scan is needed
    if not (math.isfinite(least) and math.isfinite(largest)):
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise UserError(
            f"{name}: {bad} voxels are NaN or infinite. "
            "Export the scan again, or replace them by the background value.",
            status=422,
        )
    if least == largest:
        raise UserError(
            f"{name}: every voxel has the value {least:g}, so there is nothing to see. Check the export of this scan.",
            status=422,
        )


def write_label(
    path: str | os.PathLike[str],
    label: np.ndarray,
    affine: np.ndarray,
    dtype: str | type = np.uint8,
    *,
    compress: bool = True,
) -> None:
    """Write a label map ``[D, H, W]`` of type ``dtype``, whole or not at all: as NIfTI, NRRD or PNG, by the suffix.

    Args:
        path: the file.
        label: the label map.
        affine: ``[4, 4]`` of its scan: ITK and 3D Slicer show it on the scan.
        dtype: type of the values in the file.
        compress: pack the values of NRRD.

    Raises:
        UserError: (507) when there is no space left; (400) for a PNG of a volume, or of another type than uint8 and
            uint16.
    """
    path = Path(path)
    if is_picture(path):
        if label.shape[2] != 1 or np.dtype(dtype) not in (np.uint8, np.uint16) or path.suffix.lower() != ".png":
            raise UserError(
                "A label can be written as PNG only for a 2D image, with values of type uint8 or uint16. "
                "Choose .nii.gz or .nrrd."
            )
        plane = label[:, :, 0].astype(dtype)
        write_whole(path, lambda temporary: write_picture_label(temporary, plane))
        return
    array = np.asarray(label, dtype=dtype)
    if path.suffix.lower() == ".nrrd":
        write_whole(path, lambda temporary: write_nrrd(temporary, array, affine, compress=compress))
        return
    import nibabel

    from .nifti_places import nifti_image

    image = nifti_image(array, affine)
    write_whole(path, lambda temporary: nibabel.save(image, temporary))


def write_scan(path: str | os.PathLike[str], scan: Volume) -> None:
    """Write a scan as NIfTI, with the values that it has: ``[D, H, W]``, or ``[D, H, W, C]`` with several channels.

    Raises:
        UserError: (507) when there is no space left.
    """
    array = np.stack([scan.array, *scan.further], axis=-1) if scan.further else scan.array
    write_label(path, array, scan.affine, exact_type(array))


@lru_cache(maxsize=1000)
def _say_once(name: str, note: str) -> None:
    logger.warning("%s: %s", name, note)


def _read_picture(path: Path) -> Volume:
    """A PNG or JPEG file ``[W, H, 1]``."""
    check_there(path)
    try:
        picture = read_picture(path)
    except UserError:
        raise
    except Exception as error:
        # Pillow raises OSError, SyntaxError, ValueError and errors of its own; ITK RuntimeError.
        raise unreadable(path, error) from error
    if min(picture.grey.shape) < 2:
        raise UserError(f"{path.name} has {size_text(picture.grey.shape)} pixels only. Check the export.", status=422)
    affine = np.diag([-picture.spacing[0], -picture.spacing[1], 1.0, 1.0])
    return Volume(picture.grey[..., None], affine, None if picture.colour is None else picture.colour[..., None])


def _read_scan(path: Path) -> Volume:
    """A medical image file or a DICOM folder."""
    check_there(path)
    if may_be_dicom(path) and is_dicom(path) and (stack := find_stack(path)) is not None:
        series = read_stack(stack)
        return Volume(series.array, series.affine, notes=series.notes)
    loaded = load(path)
    array, affine = loaded.array, loaded.affine
    if not path.name.lower().endswith(NIFTI_ENDINGS):
        _check_right_angles(affine, array.shape[:3], path.name)
    modality = str(loaded.fields.get("0008|0060", "")).strip()
    if volumes_in(array):
        first, *others = (np.ascontiguousarray(volume_of(array[..., n], path)) for n in range(array.shape[3]))
        return replace(_scan(loaded, first), further=tuple(each.astype(np.float32, copy=False) for each in others))
    if not modality or modality in SLICES or array.ndim not in (3, 4) or array.shape[2] != 1:
        return _scan(loaded, volume_of(array, path))
    if array.ndim == 4 and array.shape[3] == 3:
        grey, colour = split_colour(np.moveaxis(array, 3, 0))
        return Volume(grey, affine, colour)
    # ITK has turned pixels for which bright means dark (MONOCHROME1).
    return _scan(loaded, volume_of(array, path, flat=True))


def _scan(loaded: Loaded, array: np.ndarray) -> Volume:
    return Volume(array.astype(np.float32, copy=False), loaded.affine, notes=loaded.notes, also_at=loaded.also_at)


def _check_right_angles(affine: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    """Refuse a scan whose axes are sheared: ITK shows it so, but no label of it in NIfTI, which has right angles only.

    A NIfTI scan is left out, because ``nifti_places`` has chosen its place among those of its header.
    """
    if len(shape) < 3 or corner_shift(straightened(affine), affine, shape) <= MOST_SHIFT:
        return
    raise UserError(
        f"{name}: its axes are not at right angles, so a label of it would not lie on it in every viewer. Resample the "
        "scan to a grid with right angles (in 3D Slicer: Resample Scalar Volume) and use that one.",
        status=422,
    )
