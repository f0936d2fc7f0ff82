"""A scan with its geometry, read from and written to files.

A 2D image (PNG, JPEG, a DICOM file that is no slice of a volume) is a scan of one slice, ``[W, H, 1]``. A picture
without a place in the patient lies as ITK and 3D Slicer put it: columns towards the patient's left, rows towards the
back, the first pixel's centre at the origin. So labels drawn in Slicer fit.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.data import ITKReader, NibabelReader

from .errors import UserError
from .labels import LabelSchema
from .pictures import PICTURES, read_picture, read_picture_label, split_colour, write_picture_label

NIFTI = (".nii", ".nii.gz")
OTHERS = (".nrrd", ".mha", ".mhd", ".dcm")
SUFFIXES = NIFTI + OTHERS + PICTURES
_SLICES = ("CT", "MR", "PT", "NM")
"""DICOM modalities whose single images are slices of a volume."""
_MOST_SHIFT = 0.5
"""How far a label's corners may lie from its scan's, in voxels: headers round."""

_UMASK = os.umask(0o077)
"""Read once, as that needs a change for a moment: scans may be readable for some people only."""
os.umask(_UMASK)


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in its own grid.

    Args:
        array: ``[D, H, W]`` float32, finite; D, H, W are the voxel axes i, j, k in the order of the affine's columns.
            W is 1 for a 2D image. The brightness, for one in colour.
        affine: ``[4, 4]`` voxel index to millimetres in RAS.
        colour: red, green and blue ``[3, D, H, W]`` float32 of a 2D image in colour, else None.
        notes: sentences for the user about how the file was read, where its header contradicts itself or part of it
            was left out; empty as a rule.
    """

    array: np.ndarray
    affine: np.ndarray
    colour: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return self.array.shape  # type: ignore[return-value]

    @property
    def flat(self) -> bool:
        """Whether this is a 2D image."""
        return bool(self.array.shape[2] == 1)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along each axis in mm."""
        return spacing_of(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in mm along the three axes of an affine ``[4, 4]``."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a scan: NIfTI, NRRD, MHA/MHD, one DICOM file or a folder with one DICOM series; or a 2D image, see above.

    Raises:
        UserError: (422) when the file is missing, cut short, neither a three-dimensional single-channel image nor a 2D
            image, holds non-finite values or one value only.
    """
    path = Path(path)
    name = path.name
    array, affine, colour = _read_picture(path) if _is_picture(path) else _read_scan(path)
    array = array.astype(np.float32, copy=False)
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
    return Volume(array=array, affine=affine, colour=colour)


def read_label(
    path: str | os.PathLike[str],
    scan: Volume,
    schema: LabelSchema,
    *,
    may_be_empty: bool = False,
    values: Callable[[Sequence[int]], Mapping[int, int]] | None = None,
) -> np.ndarray:
    """Read a label map that belongs to ``scan``.

    A PNG has no place of its own: it only has to have the size of its 2D image. If it holds 0 and 255 only and there is
    one structure, 255 is that structure.

    Args:
        path: its file.
        scan: the scan.
        schema: the structures.
        may_be_empty: accept a label without any structure, as the app may have made one.
        values: gives for the values above 0 that the label holds what each means in the schema; empty when it is the
            same.

    Returns:
        ``[D, H, W]`` uint8 on the scan's grid, values of ``schema``.

    Raises:
        UserError: (422) when it cannot be read, has another shape or place than the scan, is empty, or holds values
            that ``schema`` does not know.
    """
    name = f"Label {Path(path).name}"
    array, affine = _read_label_file(Path(path), scan)
    if array.shape != scan.shape or _corner_shift(affine, scan) > _MOST_SHIFT:
        turned = _match_orientation(array, affine, scan)
        if turned is None and sorted(array.shape) == sorted(scan.shape) and not _is_picture(Path(path)):
            raise UserError(
                f"{name} lies elsewhere in space than its scan (other origin, spacing or direction). "
                "Save the label on the grid of the scan.",
                status=422,
            )
        array = array if turned is None else turned
    if array.shape != scan.shape:
        raise UserError(
            f"{name} has {_size(array.shape)} voxels, but its scan has {_size(scan.shape)}. "
            "Save the label on the grid of the scan.",
            status=422,
        )
    if _is_picture(Path(path)) and schema.count == 1:
        array = _as_mask(array)
    if values is not None:
        array = _translated(array, values)
    schema.check(array, name, may_be_empty=may_be_empty)
    return array.astype(np.uint8, copy=False)


def _translated(array: np.ndarray, values: Callable[[Sequence[int]], Mapping[int, int]]) -> np.ndarray:
    present = [value for value in np.unique(array) if value != 0]
    if not all(float(value).is_integer() and value > 0 for value in present):
        return array
    pairs = values([int(value) for value in present])
    changed = np.array(array)
    for old, new in pairs.items():
        changed[array == old] = new
    return changed


def largest_label(path: str | os.PathLike[str]) -> float:
    """The largest value of a label file; 255 of a PNG that has only 0 besides counts as 1.

    Raises:
        UserError: (422) when it cannot be read.
    """
    path = Path(path)
    array = _as_mask(_read_label_file(path, None)[0]) if _is_picture(path) else _read_label_file(path, None)[0]
    return float(array.max())


def is_dicom_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a DICOM image that stands for itself, no slice of a volume; reads its header only."""
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality", "Rows"])
    except (OSError, pydicom.errors.InvalidDicomError):
        return False
    return bool(header.get("Modality")) and header.Modality not in _SLICES and "Rows" in header


def write_label(
    path: str | os.PathLike[str], label: np.ndarray, affine: np.ndarray, dtype: str | type = np.uint8
) -> None:
    """Write a label map ``[D, H, W]`` of type ``dtype`` as NIfTI, whole or not at all; or as PNG, by the path's suffix.

    Raises:
        UserError: (507) when there is no space left; (400) for a PNG of a volume, or of another type than uint8 and
            uint16.
    """
    if _is_picture(Path(path)):
        if label.shape[2] != 1 or np.dtype(dtype) not in (np.uint8, np.uint16) or Path(path).suffix.lower() != ".png":
            raise UserError(
                "A label can be written as PNG only for a 2D image, with values of type uint8 or uint16. "
                "Choose .nii.gz or .nrrd."
            )
        plane = label[:, :, 0].astype(dtype)
        write_whole(Path(path), lambda temporary: write_picture_label(temporary, plane))
        return
    import nibabel

    image = nibabel.Nifti1Image(np.asarray(label, dtype=dtype), affine)
    image.header.set_xyzt_units("mm")
    write_whole(Path(path), lambda temporary: nibabel.save(image, temporary))


def write_whole(path: Path, write) -> None:  # type: ignore[no-untyped-def]
    """Call ``write(temporary_path)`` and move the result to ``path`` in one step.

    The temporary file lies in the same folder and has the same suffixes, so that a reader of ``path`` never sees half
    a file, also after a kill.

    Raises:
        UserError: (507) when there is no space left on the device.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".nii.gz") else path.suffix
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=suffix, dir=path.parent)
    os.close(handle)
    try:
        write(name)
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(name, 0o666 & ~_UMASK)
        os.replace(name, path)
    except OSError as error:
        raise space_error(error, path.parent) or error from error
    finally:
        if os.path.exists(name):
            os.unlink(name)


def space_error(error: OSError, folder: Path) -> UserError | None:
    """A readable error when ``error`` says that ``folder`` has no space left, else None."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"No space left in {folder}. Free some space there and start again: finished rounds are kept.", status=507
        )
    return None


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _is_picture(path: Path) -> bool:
    return path.name.lower().endswith(PICTURES) and not path.is_dir()


def _as_mask(array: np.ndarray) -> np.ndarray:
    """A mask of 0 and 255, as image programs write it, as 0 and 1; other label maps as they are."""
    return array // 255 if array.max() == 255 and np.isin(array, (0, 255)).all() else array


def _read_picture(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Brightness ``[W, H, 1]``, RAS affine ``[4, 4]`` and colours ``[3, W, H, 1]`` (if any) of a PNG or JPEG file."""
    _check_there(path)
    try:
        picture = read_picture(path)
    except Exception as error:
        # Pillow raises OSError, SyntaxError, ValueError and errors of its own; ITK RuntimeError.
        raise _unreadable(path, error) from error
    if min(picture.grey.shape) < 2:
        raise UserError(f"{path.name} has {_size(picture.grey.shape)} pixels only. Check the export.", status=422)
    affine = np.diag([-picture.spacing[0], -picture.spacing[1], 1.0, 1.0])
    return picture.grey[..., None], affine, None if picture.colour is None else picture.colour[..., None]


def _read_scan(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Array ``[D, H, W]``, RAS affine ``[4, 4]`` and colours (if any) of a medical image file or a DICOM folder."""
    array, affine, meta = _load(path)
    modality = str(meta.get("0008|0060", "")).strip()
    if not modality or modality in _SLICES or array.ndim not in (3, 4) or array.shape[2] != 1:
        return _volume(array, path), affine, None
    if path.is_dir() and len(files := [f for f in path.iterdir() if f.is_file() and not f.name.startswith(".")]) > 1:
        raise UserError(
            f"{path.name} holds {len(files)} files, but they are single 2D images ({modality}). "
            "Put each into a folder of its own.",
            status=422,
        )
    if array.ndim == 4 and array.shape[3] == 3:
        grey, colour = split_colour(np.moveaxis(array, 3, 0))
        return grey, affine, colour
    # ITK has turned pixels for which bright means dark (MONOCHROME1).
    return _volume(array, path, flat=True), affine, None


def _read_label_file(path: Path, scan: Volume | None) -> tuple[np.ndarray, np.ndarray]:
    """Array ``[D, H, W]`` and RAS affine ``[4, 4]`` of a label, which may be flat; a PNG lies where ``scan`` lies."""
    if not _is_picture(path):
        array, affine, _ = _load(path)
        return _volume(array, path, flat=scan is None or scan.flat), affine
    _check_there(path)
    if scan is not None and not scan.flat:
        raise UserError(
            f"Label {path.name} is a 2D picture, but its scan has {_size(scan.shape)} voxels. "
            "Save the label on the grid of the scan.",
            status=422,
        )
    try:
        return read_picture_label(path)[..., None], np.eye(4) if scan is None else scan.affine
    except Exception as error:
        raise _unreadable(path, error) from error


def _check_there(path: Path) -> None:
    if not path.exists():
        raise UserError(f"There is no file {path.name}.", status=404)


def _unreadable(path: Path, error: Exception) -> UserError:
    text = str(error).strip()
    return UserError(
        f"{path.name} cannot be read: the file is damaged, cut short or no medical image "
        f"({type(error).__name__}: {text.splitlines()[0][:160] if text else '-'}). "
        "Copy or export it again.",
        status=422,
    )


def _load(path: Path) -> tuple[np.ndarray, np.ndarray, Mapping[str, object]]:
    """Array as stored, RAS affine ``[4, 4]`` and header of a file or DICOM folder."""
    _check_there(path)
    nifti = path.name.lower().endswith(NIFTI)
    try:
        if nifti:
            reader: NibabelReader | ITKReader = NibabelReader()
        else:
            reader = ITKReader(affine_lps_to_ras=True)
        array, meta = reader.get_data(reader.read(str(path)))
        array = np.asarray(array)
    except Exception as error:
        # The readers raise many kinds of errors (EOFError, zlib.error, ImageFileError, RuntimeError, ...).
        raise _unreadable(path, error) from error
    affine = _whole_affine(np.asarray(meta["affine"], dtype=np.float64))
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UserError(f"{path.name} has no usable geometry (its affine is singular). Export it again.", status=422)
    return array, affine, meta


def _whole_affine(affine: np.ndarray) -> np.ndarray:
    """The first three axes of an affine ``[4, 4]`` or ``[5, 5]``; that of a plane ``[3, 3]`` gets slices 1 mm apart."""
    if affine.shape[0] > 3:
        return affine[:4, :4]
    whole = np.eye(4)
    whole[:2, :2], whole[:2, 3] = affine[:2, :2], affine[:2, 2]
    return whole


def _volume(array: np.ndarray, path: Path, *, flat: bool = False) -> np.ndarray:
    """``array`` as ``[D, H, W]``; with ``flat`` a single slice ``[D, H]`` or ``[D, H, 1]`` is fine, too."""
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if flat and array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or min(array.shape[:2] if flat else array.shape) < 2:
        raise UserError(
            f"{path.name} has the shape {_size(array.shape)}; a three-dimensional, single-channel scan is needed. "
            "Split time series or colour channels into single volumes, and give 2D images as PNG, JPEG or DICOM.",
            status=422,
        )
    return array


def _corner_shift(affine: np.ndarray, scan: Volume) -> float:
    """How far apart, in voxels of the scan, its corners lie under ``affine`` and under its own affine; the furthest."""
    # A 2D image has no thickness that its label could miss.
    size = [*scan.shape[:2], 0 if scan.flat else scan.shape[2], 1.0]
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * size
    moved = corners @ (np.linalg.inv(scan.affine) @ affine).T
    return float(np.abs(moved - corners).max())


def _match_orientation(array: np.ndarray, affine: np.ndarray, scan: Volume) -> np.ndarray | None:
    """Flip and permute a label stored in another axis order onto the scan's grid; None when it lies elsewhere."""
    to_scan = np.linalg.inv(scan.affine) @ affine
    turn = np.round(to_scan[:3, :3])
    is_turn = np.allclose(np.abs(turn).sum(axis=0), 1) and np.allclose(np.abs(turn).sum(axis=1), 1)
    if not is_turn or not np.allclose(to_scan[:3, :3], turn, atol=1e-2):
        return None
    axes = np.abs(turn).argmax(axis=1)
    flips = [axis for axis in range(3) if turn[axis, axes[axis]] < 0]
    moved = np.flip(array.transpose(axes), flips)
    expected = [scan.shape[axis] - 1 if axis in flips else 0 for axis in range(3)]
    if moved.shape != scan.shape or not np.allclose(to_scan[:3, 3], expected, atol=0.5):
        return None
    return np.ascontiguousarray(moved)
