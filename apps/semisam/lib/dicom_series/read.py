"""A DICOM series as a volume."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom

from lib.core.errors import UserError
from lib.formats.limits import check_voxels

from .choose import choose, refused
from .collect import collect
from .headers import NO_IMAGES
from .pixels import read_planes
from .slices import Slice
from .stack import Stack, stacked

SLICES = ("CT", "MR", "PT", "NM")
"""Modalities whose single images are slices of a volume."""


@dataclass(frozen=True, eq=False)
class SeriesVolume:
    """A series as a volume.

    Args:
        array: ``[D, H, W]`` float32: columns, rows and slices.
        affine: ``[4, 4]`` voxel index to mm, RAS.
        notes: sentences for the user about how it was read.
    """

    array: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file is marked or named as DICOM; a folder always counts."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" or path.suffix.lower() == ".dcm"
    except OSError:
        return False


def is_dicom_image(path: str | Path) -> bool:
    """Whether a file is a DICOM image that stands for itself, no slice of a volume; reads its header only."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality", "Rows"])
    except (OSError, pydicom.errors.InvalidDicomError):
        return False
    return bool(header.get("Modality")) and header.Modality not in (*SLICES, *NO_IMAGES) and "Rows" in header


def find_stack(path: Path, name: str | None = None, *, copied: bool = False) -> Stack | None:
    """The even stack of a series, by its headers only; None where it is one 2D image that stands for itself.

    Args:
        path: a folder with one series, or a file.
        name: what to call it in texts; None takes the path's name.
        copied: whether the files are copies of a server's, whose names nobody knows.

    Raises:
        UserError: (422) when there is no DICOM image, or the series cannot be read rightly as one volume; (413) when
            it is too large.
    """
    called = name or path.name
    collected = collect(path)
    slices = tuple(replace(each, file="") for each in collected.slices) if copied else collected.slices
    if not slices:
        raise UserError(
            f"{called} cannot be read: there is no DICOM image in it. Give one series of DICOM images.", status=422
        )
    if all(each.modality not in SLICES for each in slices) and (
        len(slices) == 1 or all(each.position is None for each in slices)
    ):
        _check_picture(slices, called)
        return None
    film = next((each for each in slices if each.frame is None and each.storage.frames > 1), None)
    if film is not None:
        raise _film(film, called)
    chosen = choose(slices, called)
    stack = stacked(chosen.slices, called, [*collected.notes, *chosen.notes])
    check_voxels(stack.shape, called)
    return stack


def _check_picture(slices: tuple[Slice, ...], name: str) -> None:
    """Refuse all but one image of one frame, and one that is too large."""
    count = len({each.path for each in slices})
    if count > 1:
        raise UserError(
            f"{name} holds {count} single 2D images ({slices[0].modality}). A 2D scan is one image: put each into a "
            "folder of its own (on a DICOM server, into a series of its own).",
            status=422,
        )
    if slices[0].storage.frames > 1:
        raise _film(slices[0], name)
    check_voxels((slices[0].columns, slices[0].rows), name)


def _film(one: Slice, name: str) -> UserError:
    frames = f"{one.text} is a film of {one.storage.frames} frames ({one.modality}) that do not say where they lie"
    return refused(name, frames, "Export single frames as 2D images.")


def read_stack(stack: Stack) -> SeriesVolume:
    """The voxels of a stack.

    Raises:
        UserError: (422) when a file is cut short or cannot be decoded.
    """
    columns, rows, depth = stack.shape
    planes = np.empty((depth, rows, columns), dtype=np.float32)
    if not stack.upright:
        planes.fill(math.nan)
    for plane, values, shift in zip(planes, read_planes(stack.slices), stack.shifts, strict=True):
        if stack.upright:
            plane[...] = values
        else:
            _lay(values, shift, plane)
    if not stack.upright:
        planes[np.isnan(planes)] = np.nanmin(planes)
    # In memory as NIfTI files hold it: columns next to each other.
    return SeriesVolume(planes.transpose(2, 1, 0), stack.affine, stack.notes)


def _lay(values: np.ndarray, shift: np.ndarray, plane: np.ndarray) -> None:
    """Put a plane's values on a larger one, between whose pixels it lies; linear, NaN where it does not reach."""
    column, row = np.floor(shift + 1e-3).astype(int)
    right, down = np.maximum(shift - (column, row), 0.0)
    for axis, share in ((1, right), (0, down)):
        if share > 1e-3:
            values = _between(values, float(share), axis)
    height, width = min(values.shape[0], plane.shape[0] - row), min(values.shape[1], plane.shape[1] - column)
    plane[row : row + height, column : column + width] = values[:height, :width]


def _between(values: np.ndarray, share: float, axis: int) -> np.ndarray:
    """Values moved by a share of a pixel along an axis, which grows by one; its ends keep their value."""
    edges = [(0, 0), (0, 0)]
    edges[axis] = (1, 1)
    wide = np.pad(values, edges, mode="edge")
    size = wide.shape[axis]
    before, after = wide.take(range(size - 1), axis), wide.take(range(1, size), axis)
    return share * before + (1 - share) * after
