"""The pixels inside closed contours."""

from __future__ import annotations

import numpy as np

_ON_IT = 0.02
"""How far a pixel's centre may lie outside a contour and still be on it, in pixels: many programs draw contours through
the centres of the outermost pixels, and round coordinates to two digits."""


def filled(contour: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie inside a contour or on it ("points lying along the path", PS3.3 C.8.8.6.3).

    Where a contour crosses itself or runs twice, what it surrounds an even number of times is outside.

    Args:
        contour: ``[N, 2]`` column and row in pixels, closed by its first point.
        shape: rows and columns.

    Returns:
        ``[rows, columns]`` boolean; what lies beyond the picture is left out.
    """
    mask = np.zeros(shape, dtype=bool)
    first, last = np.floor(contour[:, 1].min() - _ON_IT), np.ceil(contour[:, 1].max() + _ON_IT)
    for row in range(max(0, int(first)), min(shape[0] - 1, int(last)) + 1):
        for off in (-_ON_IT, 0.0, _ON_IT):
            _fill_row(mask[row], contour, row + off)
    return mask


def _fill_row(row: np.ndarray, contour: np.ndarray, height: float) -> None:
    """Mark in a row of pixels what lies between each two crossings of a contour with a horizontal line."""
    following = np.roll(contour, -1, axis=0)
    crosses = (contour[:, 1] <= height) != (following[:, 1] <= height)
    one, other = contour[crosses], following[crosses]
    at = np.sort(one[:, 0] + (height - one[:, 1]) / (other[:, 1] - one[:, 1]) * (other[:, 0] - one[:, 0]))
    for left, right in zip(at[::2], at[1::2], strict=True):
        start, stop = int(np.ceil(left - _ON_IT)), int(np.floor(right + _ON_IT)) + 1
        row[max(0, start) : max(0, stop)] = True


def combined(whole: np.ndarray, part: np.ndarray) -> np.ndarray | None:
    """What the contours of a structure on one slice hold together, a further one added.

    One that lies within what is there is the border of a hole; one around it makes a hole of it; one beside it is
    another part, or an island in a hole. Parts may share the pixels of their borders.

    Args:
        whole: ``[rows, columns]`` boolean, of the contours so far.
        part: of the further one.

    Returns:
        None when the two cross each other, so that nobody can tell what is meant.
    """
    shared = whole & part
    nested = int(shared.sum()) in (0, int(whole.sum()), int(part.sum()))
    together: np.ndarray = whole ^ part if nested else whole | part
    return together if nested or is_border(shared) else None


def is_border(shared: np.ndarray) -> bool:
    """Whether what two structures have in common is no wider than a pixel.

    Contours that touch share the pixels that they run through.

    Args:
        shared: ``[rows, columns]`` or ``[rows, columns, slices]`` boolean.
    """
    return not (shared[1:, 1:] & shared[:-1, 1:] & shared[1:, :-1] & shared[:-1, :-1]).any()
