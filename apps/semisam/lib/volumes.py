"""A scan with its geometry, read from and written to files."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.data import ITKReader, NibabelReader

from .errors import UserError
from .labels import LabelSchema

NIFTI = (".nii", ".nii.gz")
OTHERS = (".nrrd", ".mha", ".mhd", ".dcm")
SUFFIXES = NIFTI + OTHERS
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
        affine: ``[4, 4]`` voxel index to millimetres in RAS.
    """

    array: np.ndarray
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return self.array.shape  # type: ignore[return-value]

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
    """Read a scan: NIfTI, NRRD, MHA/MHD, one DICOM file or a folder with one DICOM series.

    Raises:
        UserError: (422) when the file is missing, cut short, no three-dimensional single-channel image, holds
            non-finite values or one value only.
    """
    array, affine = _read(Path(path))
    name = Path(path).name
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise UserError(
            f"{name}: {bad} voxels are NaN or infinite. "
            "Export the scan again, or replace them by the background value.",
            status=422,
        )
    if float(array.min()) == float(array.max()):
        raise UserError(
            f"{name}: every voxel has the value {float(array.min()):g}, so there is nothing to see. "
            "Check the export of this scan.",
            status=422,
        )
    return Volume(array=array, affine=affine)


def read_label(
    path: str | os.PathLike[str], scan: Volume, schema: LabelSchema, *, may_be_empty: bool = False
) -> np.ndarray:
    """Read a label map that belongs to ``scan``.

    Args:
        path: its file.
        scan: the scan.
        schema: the structures.
        may_be_empty: accept a label without any structure, as the app may have made one.

    Returns:
        ``[D, H, W]`` uint8 on the scan's grid, values of ``schema``.

    Raises:
        UserError: (422) when it cannot be read, has another shape or place than the scan, is empty, or holds values
            that ``schema`` does not know.
    """
    name = f"Label {Path(path).name}"
    array, affine = _read(Path(path))
    if array.shape != scan.shape or _corner_shift(affine, scan) > _MOST_SHIFT:
        turned = _match_orientation(array, affine, scan)
        if turned is None and sorted(array.shape) == sorted(scan.shape):
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
    schema.check(array, name, may_be_empty=may_be_empty)
    return array.astype(np.uint8)


def write_label(
    path: str | os.PathLike[str], label: np.ndarray, affine: np.ndarray, dtype: str | type = np.uint8
) -> None:
    """Write a label map ``[D, H, W]`` as NIfTI of type ``dtype``, whole or not at all.

    Raises:
        UserError: (507) when there is no space left.
    """
    import nibabel

    image = nibabel.Nifti1Image(np.ascontiguousarray(label, dtype=dtype), affine)
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


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array ``[D, H, W]`` and RAS affine ``[4, 4]`` of a file or DICOM folder."""
    if not path.exists():
        raise UserError(f"There is no file {path.name}.", status=404)
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
        raise UserError(
            f"{path.name} cannot be read: the file is damaged, cut short or no medical image "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else '-'}). "
            "Copy or export it again.",
            status=422,
        ) from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3 or min(array.shape) < 2:
        raise UserError(
            f"{path.name} has the shape {_size(array.shape)}; a three-dimensional, single-channel scan is needed. "
            "Split time series or colour channels into single volumes.",
            status=422,
        )
    affine = np.asarray(meta["affine"], dtype=np.float64)[:4, :4]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UserError(f"{path.name} has no usable geometry (its affine is singular). Export it again.", status=422)
    return array, affine


def _corner_shift(affine: np.ndarray, scan: Volume) -> float:
    """How far apart, in voxels of the scan, its corners lie under ``affine`` and under its own affine; the furthest."""
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*scan.shape, 1.0]
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
