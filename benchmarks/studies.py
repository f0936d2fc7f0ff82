"""Seven studies with their truth, read alike, and ways to turn and cut a scan of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform

import common
from lib.core.geometry import Volume
from lib.formats.pictures import read_picture_label
from lib.formats.volumes import read_volume

_LPBA40 = (*range(21, 35), *range(41, 51), *range(61, 69), *range(81, 93), 101, 102, 121, 122, *range(161, 167))
"""LONI's numbers of its 54 structures."""


@dataclass(frozen=True)
class Study:
    """A folder of outlined scans, one of which is the template.

    Args:
        name: of its folder.
        values: value of each structure in the label files, in the order of the structures 1..N.
        scans: how many to measure unless told otherwise.
        suffix: of the files.
        template: name of the template; None for the first of ``split.json``, or the first by name.
    """

    name: str
    values: tuple[int, ...]
    scans: int
    suffix: str = ".nii.gz"
    template: str | None = None

    @property
    def folder(self) -> Path:
        """Where it lies; whether it is there, the caller has to see."""
        return Path(os.environ.get("SEMISAM_DATA") or common.ROOT.parent / "shared" / "data") / self.name

    def names(self) -> list[str]:
        """All scans, the template first; those held out (``val``) come next."""
        split = self.folder / "split.json"
        if split.is_file():
            content = json.loads(split.read_text(encoding="utf-8"))
            return [content["train"][0], *content["val"], *content["train"][1:]]
        found = sorted(path.name.removesuffix(self.suffix) for path in (self.folder / "images").iterdir())
        first = self.template or found[0]
        return [first, *(name for name in found if name != first)]

    def read(self, name: str) -> tuple[Volume, np.ndarray]:
        """A scan and its label ``[D, H, W]`` uint8 with the values 0..N."""
        scan = read_volume(self.folder / "images" / f"{name}{self.suffix}")
        path = self.folder / "labels" / f"{name}{self.suffix}"
        if self.suffix == ".png":
            stored = read_picture_label(path)[..., None]
        else:
            import nibabel

            stored = np.asarray(nibabel.load(path).dataobj)
        label = np.zeros(scan.shape, dtype=np.uint8)
        for number, value in enumerate(self.values, 1):
            label[stored == value] = number
        return scan, label


STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study("la", (1,), 10),
        Study("hippocampus", (1, 2), 20),
        Study("mscmr", (1, 2, 3), 11, template="image_1"),
        Study("chaos_mr", (1, 2, 3, 4), 9, template="image_1"),
        Study("btcv_ct", tuple(range(1, 14)), 11, template="image_0"),
        Study("lpba40", _LPBA40, 10, template="S11"),
        Study("jsrt", (150, 200, 250), 20, suffix=".png"),
    )
}

Labelled = tuple[Volume, np.ndarray]


def turned(labelled: Labelled, degrees: float, *, out_of_plane: bool = False) -> Labelled:
    """A scan turned about its middle with its label, in a header that does not tell.

    Nothing is cut off: the grid grows, with the scan's least value around.

    Args:
        labelled: the scan and its label.
        degrees: how far.
        out_of_plane: about the scan's first axis in the plane, else within the plane of its slices.
    """
    scan, label = labelled
    spacing = np.array(scan.spacing)
    across = 2 if scan.flat else int(np.argmax(spacing))
    plane = [n for n in range(3) if n != across]
    a, b = (plane[1], across) if out_of_plane else (plane[0], plane[1])
    angle = math.radians(degrees)
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = math.cos(angle)
    turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
    matrix = np.diag(1 / spacing) @ turn @ np.diag(spacing)  # from places of the new grid to those of the old one
    size = np.array(scan.shape)
    extent = np.abs(np.linalg.inv(matrix)) @ size
    shape = np.maximum(size * (np.arange(3) != a) * (np.arange(3) != b), np.ceil(extent - 1e-6)).astype(int)
    shape = np.where((np.arange(3) == a) | (np.arange(3) == b), shape, size)
    offset = (size - 1) / 2 - matrix @ ((shape - 1) / 2)

    def resampled(values: np.ndarray, order: int, fill: float) -> np.ndarray:
        found: np.ndarray = affine_transform(values, matrix, offset, tuple(shape), order=order, cval=fill)
        return found

    least = float(scan.array.min())
    array = resampled(scan.array, 1, least)
    return replace(scan, array=array, colour=None), resampled(label, 0, 0)


def halved(labelled: Labelled) -> Labelled:
    """A scan cut to half its field of view, all structures kept: along the axis where they leave most room."""
    scan, label = labelled
    inside = [np.flatnonzero((label > 0).any(axis=tuple(m for m in range(3) if m != n))) for n in range(3)]
    length = [int(each[-1] - each[0]) + 1 for each in inside]
    axis = min(range(2 if scan.flat else 3), key=lambda n: length[n] / label.shape[n])
    size = label.shape[axis]
    kept = max(size // 2, min(size, length[axis] + 2))
    first = min(max(0, (int(inside[axis][0] + inside[axis][-1]) + 1 - kept) // 2), size - kept)
    part = tuple(slice(first, first + kept) if n == axis else slice(None) for n in range(3))
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, axis] * first
    return replace(scan, array=np.ascontiguousarray(scan.array[part]), affine=affine, colour=None), label[part].copy()


VARIANTS: Mapping[str, Callable[[Labelled], Labelled]] = {
    "as it is": lambda labelled: labelled,
    "in 30": lambda labelled: turned(labelled, 30),
    "in 90": lambda labelled: turned(labelled, 90),
    "in 180": lambda labelled: turned(labelled, 180),
    "out 20": lambda labelled: turned(labelled, 20, out_of_plane=True),
    "half": halved,
}
"""What a scan is measured as, beside as it is."""
