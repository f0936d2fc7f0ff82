"""The affine of a NIfTI file, as ITK (and so 3D Slicer) takes it from the header.

A header has room for two places, the sform and the qform, for their codes and for a unit of length
(https://nifti.nimh.nih.gov, nifti1.h), and programs differ in which one they take. 3D Slicer and the converters for
OHIF are built on ITK, so ITK's reading is the one: ITK itself is asked, with a copy of the header's geometry. That also
gives a place to files that it does not open, as NIfTI-2.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress

import nibabel
import numpy as np
import SimpleITK
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError

from lib.core.errors import UserError
from lib.core.files import BRIEFLY
from lib.core.geometry import corner_shift, spacing_of, usable

from .itk_images import place_of
from .nifti import NiftiFile

_UNITS = {1: (1000.0, "metres"), 3: (0.001, "micrometres")}
"""Code of the unit of length to its size in mm; ITK takes all other codes for mm."""
_SAME = 0.1
"""Voxels that places may lie apart without a word: headers round."""
_MOST_CODE = 2**15 - 1
NEITHER = "neither"


def places(nifti: NiftiFile) -> tuple[np.ndarray, tuple[np.ndarray, ...], tuple[str, ...]]:
    """Where the scan lies.

    Returns:
        affine ``[4, 4]`` in RAS and mm, as ITK takes it (the file's own where ITK takes none); the affines that other
        programs take from the header, where they differ; and what to tell the user about a header that contradicts
        itself.

    Raises:
        UserError: (422) when the header gives no usable place.
    """
    header, shape = nifti.header, (*nifti.shape[:3], 1, 1)[:3]
    found, notes = _by_itk(header), []
    others = _others(header)
    if found is None:
        sheared = others.get("sform")
        if sheared is None:
            raise UserError(
                f"{nifti.path.name} has no usable geometry (its affine is singular, or holds no numbers). "
                "Export it again.",
                status=422,
            )
        notes.append(
            "3D Slicer cannot open this file: its axes are not at right angles (sform), and its header has no other "
            "place (qform). It is read as it stands. To see it in 3D Slicer, resample it to voxels with right angles."
        )
        found = sheared
    if not usable(found):
        raise UserError(
            f"{nifti.path.name} has no usable geometry (its affine is singular). Export it again.", status=422
        )
    notes += _contradictions(header, found, shape, others)
    unit = _UNITS.get(int(header["xyzt_units"]) & 7, (1.0, ""))[0]
    scale = np.diag([1 / unit, 1 / unit, 1 / unit, 1.0])
    readings = [found, *others.values()] + [scale @ each for each in (found, *others.values()) if unit != 1]
    also = tuple(each for each in readings if corner_shift(each, found, shape) > _SAME)
    return found, also, tuple(notes)


def nifti_image(array: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    """A NIfTI image that every program puts in the same place.

    Sform and qform say the same. Axes that are not at right angles fit into the sform only; then the qform has the
    nearest ones that are, and ITK, which refuses others, takes these.

    Args:
        array: ``[D, H, W]``.
        affine: ``[4, 4]`` in RAS and mm.
    """
    image = nibabel.Nifti1Image(array, affine)
    image.set_qform(affine, code="scanner", strip_shears=True)
    image.set_sform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    return image


def _by_itk(header: Nifti1Header) -> np.ndarray | None:
    """The affine that ITK takes from the header; None where it refuses the header."""
    copy = Nifti1Header()
    copy.set_data_dtype(np.uint8)
    copy.set_data_shape([max(1, min(_MOST_CODE, int(n))) for n in header["dim"][1:4]])
    copy["magic"], copy["vox_offset"] = b"n+1", copy.template_dtype.itemsize + 4
    for code in ("qform_code", "sform_code"):
        copy[code] = int(header[code]) if abs(int(header[code])) <= _MOST_CODE else 0
    copy["xyzt_units"] = int(header["xyzt_units"]) & 7
    copy["pixdim"][:4] = header["pixdim"][:4]
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        copy[name] = header[name]
    for name in ("srow_x", "srow_y", "srow_z"):
        copy[name] = header[name]
    with tempfile.NamedTemporaryFile(prefix=BRIEFLY, suffix=".nii") as file:
        file.write(copy.binaryblock + bytes(4))
        file.flush()
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("NiftiImageIO")
        reader.SetFileName(file.name)
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None
        return place_of(reader)


def _others(header: Nifti1Header) -> dict[str, np.ndarray]:
    """The usable places in the header, in mm.

    Returns:
        ``sform`` and ``qform`` where their codes say so and they can be used; where there is neither, under
        ``NEITHER`` what nibabel takes then.
    """
    unit = _UNITS.get(int(header["xyzt_units"]) & 7, (1.0, ""))[0]
    scale = np.diag([unit, unit, unit, 1.0])
    found = {}
    if int(header["sform_code"]) > 0:
        found["sform"] = scale @ header.get_sform()
    if int(header["qform_code"]) > 0:
        with suppress(ValueError, HeaderDataError):  # quaternions of no rotation
            found["qform"] = scale @ header.get_qform()
    if not found:
        found[NEITHER] = scale @ header.get_base_affine()
    return {name: affine for name, affine in found.items() if usable(affine)}


def _contradictions(
    header: Nifti1Header, taken: np.ndarray, shape: tuple[int, ...], others: dict[str, np.ndarray]
) -> list[str]:
    notes = []
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    if unit is not None:
        sizes = " x ".join(f"{n:.3g}" for n in spacing_of(taken))
        notes.append(
            f"The header gives lengths in {unit[1]}: voxels are read as {sizes} mm, as 3D Slicer does. Programs that "
            f"take the lengths for mm see this scan {1 / unit[0]:g} times as large."
        )
    off = {name: corner_shift(affine, taken, shape) for name, affine in others.items()}
    if max(int(header["sform_code"]), int(header["qform_code"])) <= 0:
        notes.append(
            "The header does not say where the scan lies in the patient (sform and qform have the code 0). It is read "
            "as 3D Slicer shows it: rows run to the left, columns to the back, slices upwards. Check left and right."
        )
    elif max(off.values(), default=0.0) > _SAME:
        names = {name for name, shift in off.items() if shift <= _SAME}
        other = max(off, key=lambda name: off[name])
        apart = _millimetres(others[other], taken, shape)
        by = f"of the {names.pop()}" if names else "that 3D Slicer makes of them"
        where = "contradicts itself: its {0} puts the scan" if other != NEITHER else "is damaged: programs put the scan"
        notes.append(
            f"The header {where.format(other)} up to {apart:.3g} mm away from the place that is taken, the one {by}. "
            "That is where 3D Slicer shows it; other programs may show it elsewhere."
        )
    return notes


def _millimetres(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*shape, 1.0]
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())
