"""Medical image files of all formats, as arrays with a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lib.core.errors import UserError
from lib.core.files import check_there, size_text, unreadable
from lib.core.geometry import usable

from . import itk_images, nifti, nifti_places
from .voxel_types import scalar_voxels


@dataclass(frozen=True, eq=False)
class Loaded:
    """What is in a file.

    Args:
        array: values as stored, at least two axes; a last axis more where ``layers`` says so.
        affine: ``[4, 4]`` voxel index to millimetres in RAS, as ITK and 3D Slicer take it.
        notes: sentences for the user about how the header was read.
        also_at: other affines that programs take from the same header, see ``Volume``.
        fields: texts of the header by name; DICOM tags as ``0008|0060``.
        layers: numbers that each voxel has, None for plain images.
    """

    array: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    also_at: tuple[np.ndarray, ...] = ()
    fields: Mapping[str, object] = field(default_factory=dict)
    layers: int | None = None


def load(path: Path) -> Loaded:
    """Read a medical image file or a DICOM folder; its size is checked before its values are read.

    Raises:
        UserError: (404) when it is missing; (413) when it is too large, see ``lib.formats.limits``; (422) when it
            cannot be read.
    """
    check_there(path)
    try:
        found = _load(path)
        found = replace(found, array=scalar_voxels(found.array, path.name))
    except UserError:
        raise
    except Exception as error:
        # The readers raise many kinds of errors (EOFError, zlib.error, ImageFileError, RuntimeError, ...).
        raise unreadable(path, error) from error
    if not usable(found.affine):
        raise UserError(f"{path.name} has no usable geometry (its affine is singular). Export it again.", status=422)
    return found


def may_be_dicom(path: Path) -> bool:
    """Whether a path is a folder, or a file that is not named as one of the other formats."""
    return path.is_dir() or not path.name.lower().endswith((*nifti.ENDINGS, *itk_images.ENDINGS))


def _load(path: Path) -> Loaded:
    if may_be_dicom(path):
        return _load_dicom(path)
    if path.name.lower().endswith(nifti.ENDINGS):
        header = nifti.open_nifti(path)
        affine, also, notes = nifti_places.places(header)
        return Loaded(nifti.read_values(header), affine, notes, also)
    file = itk_images.open_itk(path)
    return Loaded(itk_images.read_values(file), file.affine, fields=file.fields, layers=file.layers)


def _load_dicom(path: Path) -> Loaded:
    """A DICOM file, or a folder with one series."""
    from monai.data import ITKReader

    reader = ITKReader(affine_lps_to_ras=True)
    array, meta = reader.get_data(reader.read(str(path)))
    return Loaded(np.asarray(array), _whole_affine(np.asarray(meta["affine"], dtype=np.float64)), fields=meta)


def _whole_affine(affine: np.ndarray) -> np.ndarray:
    """The first three axes of an affine ``[4, 4]`` or ``[5, 5]``; that of a plane ``[3, 3]`` gets slices 1 mm apart."""
    if affine.shape[0] > 3:
        return affine[:4, :4]
    whole = np.eye(4)
    whole[:2, :2], whole[:2, 3] = affine[:2, :2], affine[:2, 2]
    return whole


def volume_of(array: np.ndarray, path: Path, *, flat: bool = False, least: int = 2) -> np.ndarray:
    """``array`` as ``[D, H, W]``; with ``flat`` a single slice ``[D, H]`` or ``[D, H, 1]`` is fine, too.

    Args:
        array: of a file.
        path: the file.
        flat: see above.
        least: voxels along each axis.

    Raises:
        UserError: (422) for other shapes.
    """
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if flat and array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or min(array.shape[:2] if flat else array.shape) < least:
        raise UserError(
            f"{path.name} has the shape {size_text(array.shape)}; a three-dimensional, single-channel scan is needed. "
            "Split time series or colour channels into single volumes, and give 2D images as PNG, JPEG or DICOM.",
            status=422,
        )
    return array
