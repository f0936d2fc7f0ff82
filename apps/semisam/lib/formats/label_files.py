"""Label maps as people and viewers submit them, on the grid of their scan."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.core.errors import UserError, listed
from lib.core.files import check_there, size_text, unreadable
from lib.core.geometry import Placement, Volume
from lib.core.labels import LabelSchema, whole_numbers

from .images import Loaded, load, volume_of
from .pictures import is_picture, read_picture_label
from .segmentations import is_segmentation, merge_layers, segments_in
from .voxel_types import in_words

Values = Mapping[int, int] | Callable[[Sequence[int]], Mapping[int, int]]
"""What a label's values mean: each of them to one of the schema's. Or what gives that of the values above 0 that the
label holds. Empty: they are the schema's."""


@in_words
def read_label(
    path: str | os.PathLike[str],
    scan: Volume,
    schema: LabelSchema,
    *,
    may_be_empty: bool = False,
    values: Values | None = None,
) -> np.ndarray:
    """Read a label map that belongs to ``scan``.

    It may be stored with other axes than the scan; rounding in its values is put right; where it reaches over the scan
    without anything there, that is left out. A part of the scan's grid will do where the header says which part: its
    origin is another than the scan's, or it is a segmentation of 3D Slicer. Layers become one label map, see
    ``lib.formats.segmentations``.

    A PNG has no place of its own: it only has to have the size of its 2D image. If a label holds 0 and 255 only and
    there is one structure, 255 is that structure.

    Args:
        path: its file.
        scan: the scan.
        schema: the structures.
        may_be_empty: accept a label without any structure, as the app may have made one.
        values: what its values mean, see ``Values``.

    Returns:
        ``[D, H, W]`` uint8 on the scan's grid, values of ``schema``.

    Raises:
        UserError: (422) when it cannot be read, has another shape or place than the scan, is empty, holds values that
            ``schema`` does not know or overlapping structures; (413) when it is too large.
    """
    path = Path(path)
    name = f"Label {path.name}"
    label = _read_file(path, scan)
    array = _on_grid(label, scan, name, exactly=is_picture(path))
    if schema.count == 1:
        array = _as_mask(array)
    array = _translated(array, values, name)
    schema.check(array, name, may_be_empty=may_be_empty)
    return array.astype(np.uint8, copy=False)


@in_words
def check_readable(path: str | os.PathLike[str]) -> None:
    """Read a label file to its end, whatever scan and structures it is for.

    Raises:
        UserError: (422) when it is damaged, cut short, no medical image or in colour; (413) when it is too large.
    """
    path = Path(path)
    if not is_picture(path):
        load(path)
        return
    check_there(path)
    try:
        read_picture_label(path)
    except UserError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


@in_words
def largest_label(path: str | os.PathLike[str]) -> float:
    """The largest value of a label file; 255 of one that has only 0 besides counts as 1.

    Raises:
        UserError: (422) when it cannot be read, or holds other than whole numbers.
    """
    path = Path(path)
    array = _read_file(path, None).array
    return float(_as_mask(array).max())


def _read_file(path: Path, scan: Volume | None) -> Loaded:
    """The label map ``[D, H, W]`` in a file, whole numbers; may be flat. A PNG lies where ``scan`` lies."""
    name = f"Label {path.name}"
    if not is_picture(path):
        label = load(path)
        array = label.array
        if label.layers is not None:
            segments = segments_in(label.fields, label.layers)
            array = merge_layers(whole_numbers(array, name), segments, name)
        # What is outlined on one slice only is that slice: Slicer stores no more than the outlined part.
        array = volume_of(array, path, flat=scan is None or scan.flat, least=1)
        return replace(label, array=whole_numbers(array, name), layers=None)
    check_there(path)
    if scan is not None and not scan.flat:
        raise UserError(
            f"{name} is a 2D picture, but its scan has {size_text(scan.shape)} voxels. "
            "Save the label on the grid of the scan.",
            status=422,
        )
    try:
        array = read_picture_label(path)[..., None]
    except UserError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error
    return Loaded(array, np.eye(4) if scan is None else scan.affine)


def _on_grid(label: Loaded, scan: Volume, name: str, *, exactly: bool) -> np.ndarray:
    """A label ``[D, H, W]`` on the scan's grid; ``exactly`` for one without a place, which has to have its size."""
    if is_segmentation(label.fields) and not label.array.any():
        return np.zeros(scan.shape, dtype=np.uint8)  # Slicer stores a voxel somewhere: nothing lies nowhere
    found = Placement((0, 1, 2), (), (0, 0, 0)) if exactly else _placement(label, scan)
    if found is not None:
        turned = found.turned(label.array)
        if turned.shape == scan.shape and not any(found.start):
            return np.ascontiguousarray(turned) if found.flips or found.axes != (0, 1, 2) else turned
        if not exactly and _says_which_part(label, found, scan):
            return _laid_on(turned, found.start, scan.shape, name)
    elif sorted(label.array.shape) == sorted(scan.shape):
        raise UserError(
            f"{name} lies elsewhere in space than its scan (other origin, spacing or direction). "
            "Save the label on the grid of the scan.",
            status=422,
        )
    raise UserError(
        f"{name} has {size_text(label.array.shape)} voxels, but its scan has {size_text(scan.shape)}. "
        "Save the label on the grid of the scan.",
        status=422,
    )


def _placement(label: Loaded, scan: Volume) -> Placement | None:
    """How the label lies on the scan; None when it lies elsewhere."""
    shape = label.array.shape
    first = Placement.find(label.affine, shape, scan.affine, flat=scan.flat)
    same = sorted(shape) == sorted(scan.shape)
    if first is not None and (not same or not any(first.start)):
        return first
    # Programs that take another place from a contradictory header are right about the voxels all the same.
    for reference in (scan.affine, *scan.also_at) if same else ():
        for affine in (label.affine, *label.also_at):
            found = Placement.find(affine, shape, reference, flat=scan.flat)
            if found is not None and not any(found.start) and found.turned(label.array).shape == scan.shape:
                return found
    return None


def _says_which_part(label: Loaded, found: Placement, scan: Volume) -> bool:
    """Whether a label on other voxels than the scan's is meant so, and not that of another scan."""
    if any(found.start) or is_segmentation(label.fields):
        return True
    return all(n >= m for n, m in zip(found.turned(label.array).shape, scan.shape, strict=True))


def _laid_on(part: np.ndarray, start: Sequence[int], shape: Sequence[int], name: str) -> np.ndarray:
    """``part``, whose first voxel lies on ``start``, on a grid of ``shape``.

    Raises:
        UserError: (422) when something of it would be lost.
    """
    here = [slice(max(0, s), max(0, min(n, s + m))) for s, n, m in zip(start, shape, part.shape, strict=True)]
    there = [slice(h.start - s, max(h.start, h.stop) - s) for h, s in zip(here, start, strict=True)]
    inside = part[tuple(there)]
    lost = int(np.count_nonzero(part) - np.count_nonzero(inside))
    if lost:
        raise UserError(
            f"{name} reaches beyond its scan: {lost} of its outlined voxels lie outside. If it belongs to this scan, "
            "save it on the grid of the scan.",
            status=422,
        )
    whole = np.zeros(tuple(shape), dtype=part.dtype, order="F")
    if inside.size:
        whole[tuple(here)] = inside
    return whole


def _translated(array: np.ndarray, values: Values | None, name: str) -> np.ndarray:
    """The label with the schema's values."""
    if values is None:
        return array
    present = [int(v) for v in np.unique(array) if v != 0]
    pairs = values(present) if callable(values) else values
    if not pairs:
        return array
    unnamed = [v for v in present if v not in pairs]
    if unnamed:
        raise UserError(
            f"{name} holds the value(s) {listed(unnamed)}, which none of its names stands for ("
            f"{', '.join(str(v) for v in sorted(pairs))} have one). Save it again with all its structures named.",
            status=422,
        )
    new = np.zeros_like(array)
    for old in present:
        new[array == old] = pairs[old]
    return new


def _as_mask(array: np.ndarray) -> np.ndarray:
    """A mask of 0 and 255, as many programs write it, as 0 and 1; other label maps as they are."""
    return array // 255 if array.max() == 255 and np.isin(array, (0, 255)).all() else array
