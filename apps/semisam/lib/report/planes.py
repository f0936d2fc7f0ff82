"""Planes of a scan as radiologists look at them, and small pictures made of them with the contours of a label."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lib.core.frames import frame_of
from lib.core.geometry import Volume

from .montage import edges

PLANES = ("axial", "coronal", "sagittal")
"""Names of the planes."""
_AXIS = {"axial": 2, "coronal": 1, "sagittal": 0}

Colours = Mapping[int, tuple[int, int, int]]
"""Red, green and blue, 0..255, by the value of a structure."""
_NONE: Colours = {}
_WHITE = (255, 255, 255)

_SAMPLE = 1_000_000
"""About how many voxels contrast is looked for in."""


@dataclass(frozen=True, eq=False)
class Looked:
    """A scan as it is looked at: from the feet and at the face, the patient's right on the left.

    Args:
        array: ``[D, H, W]``, towards right, anterior, superior; a view of the scan's own array.
        axes: for each of these axes, which one of the scan's own it is.
        flips: whether it runs the other way.
        spacing: voxel size in mm along them.
    """

    array: np.ndarray
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]

    @property
    def planes(self) -> tuple[str, ...]:
        """The planes there are to look at: a 2D image has one."""
        return PLANES[:1] if self.array.shape[2] == 1 else PLANES

    def count(self, plane: str) -> int:
        """How many slices a plane has."""
        return int(self.array.shape[_AXIS[plane]])

    def size(self, plane: str) -> tuple[int, int]:
        """Rows and columns of a slice."""
        rows, columns = _others(plane)
        return int(self.array.shape[rows]), int(self.array.shape[columns])

    def pixel(self, plane: str) -> tuple[float, float]:
        """Height and width of a pixel in mm."""
        rows, columns = _others(plane)
        return self.spacing[rows], self.spacing[columns]

    def turned(self, array: np.ndarray) -> np.ndarray:
        """An array ``[D, H, W]`` on the scan's own grid, such as a label, as the scan is looked at; a view."""
        return _turned(array, self.axes, self.flips)

    def cut(self, plane: str, index: int, array: np.ndarray | None = None) -> np.ndarray:
        """A slice ``[rows, columns]``; up is anterior in the axial plane, superior in the others.

        Args:
            plane: one of ``planes``.
            index: 0..count - 1, from the patient's feet, back and left.
            array: an array that was ``turned``; the scan itself by default.
        """
        whole = self.array if array is None else array
        found: np.ndarray = whole.take(index, axis=_AXIS[plane]).T[::-1, ::-1]
        return found

    def middle(self, label: np.ndarray | None = None) -> dict[str, int]:
        """For each plane the slice in which a label ``turned`` is largest; the scan's middle without one."""
        found = {}
        for plane in self.planes:
            axis = _AXIS[plane]
            areas = None if label is None else np.count_nonzero(label, axis=tuple(n for n in range(3) if n != axis))
            whole = areas is None or not areas.any()
            found[plane] = self.count(plane) // 2 if whole or areas is None else int(areas.argmax())
        return found


def look_at(scan: Volume) -> Looked:
    """A scan as it is looked at."""
    frame = frame_of(scan)
    x, y, z = (scan.spacing[axis] for axis in frame.axes)
    return Looked(_turned(scan.array, frame.axes, frame.flips), frame.axes, frame.flips, (x, y, z))


def _turned(array: np.ndarray, axes: Sequence[int], flips: Sequence[bool]) -> np.ndarray:
    return np.flip(array.transpose(axes), [n for n in range(3) if flips[n]])


def contrast(array: np.ndarray) -> tuple[float, float]:
    """The intensities that are shown as black and as white: a hundredth of the voxels lies below, and above."""
    step = max(1, round((array.size / _SAMPLE) ** (1 / 3)))
    low, high = (float(v) for v in np.percentile(array[::step, ::step, ::step], (1, 99)))
    if high <= low:
        low, high = float(array.min()), float(array.max())
    return low, max(high, low + 1e-6)


def small_picture(looked: Looked, label: np.ndarray | None, edge: int, colours: Colours = _NONE) -> bytes:
    """A picture of the planes side by side, through the middle of the structures, with their contours.

    Args:
        looked: the scan.
        label: label map ``[D, H, W]`` as it is looked at; None for the scan alone.
        edge: pixels of a plane, which is square.
        colours: of the contours by value; those without one are white.

    Returns:
        A JPEG file.
    """
    low, high = contrast(looked.array)
    middle = looked.middle(label)
    tiles = []
    for plane in looked.planes:
        grey = (looked.cut(plane, middle[plane]).astype(np.float32) - low) / (high - low)
        pixels = (np.clip(grey, 0, 1) * 255).astype(np.uint8)
        values = None if label is None else looked.cut(plane, middle[plane], label)
        tiles.append(_tile(pixels, values, looked.pixel(plane), edge, colours))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(tiles, axis=1)).save(buffer, "JPEG", quality=85, subsampling=0)
    return buffer.getvalue()


def _tile(
    grey: np.ndarray, label: np.ndarray | None, pixel: Sequence[float], edge: int, colours: Colours
) -> np.ndarray:
    """A slice and the contours in it, in the middle of a black square ``[edge, edge, 3]``."""
    rows, columns = grey.shape[0] * pixel[0], grey.shape[1] * pixel[1]
    unit = edge / max(rows, columns)
    size = max(1, min(edge, round(columns * unit))), max(1, min(edge, round(rows * unit)))
    shown = np.asarray(Image.fromarray(np.ascontiguousarray(grey)).resize(size, Image.Resampling.BILINEAR))
    picture = np.stack([shown] * 3, axis=-1)
    if label is not None:
        plain = Image.fromarray(np.ascontiguousarray(label, dtype=np.uint8))
        values = np.asarray(plain.resize(size, Image.Resampling.NEAREST))
        border = edges(values)
        for value in np.unique(values[border]):
            picture[border & (values == value)] = colours.get(int(value), _WHITE)
    tile = np.zeros((edge, edge, 3), np.uint8)
    top, left = (edge - size[1]) // 2, (edge - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = picture
    return tile


def _others(plane: str) -> tuple[int, int]:
    """The axes along a slice's rows' and columns' counts: its height's, and its width's."""
    return {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[plane]
