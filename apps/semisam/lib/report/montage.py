"""Pictures of a scan: three planes with the contours of several labels, and the uncertainty."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from lib.core.resampling import resize

CONTOURS: Mapping[str, tuple[int, int, int]] = {
    "template": (255, 200, 0),
    "propagation": (255, 200, 0),
    "pseudo-label": (0, 220, 120),
    "prediction": (70, 150, 255),
}
"""Colours of the contours, by what they show."""

_EDGE = 220
"""Pixels of a plane's longer side."""


def montage(image: Tensor, labels: Mapping[str, Tensor], uncertainty: Tensor | None, spacing: Sequence[float]) -> str:
    """Axial, coronal and sagittal plane through the structures' middle, below them the uncertainty.

    Args:
        image: ``[C, D, H, W]`` on a canonical grid (right, anterior, superior).
        labels: label maps ``[D, H, W]`` by name of ``CONTOURS``, on the same grid.
        uncertainty: ``[D, H, W]`` in 0..1, None leaves the second row out.
        spacing: voxel size in mm.

    Returns:
        A PNG as a ``data:`` address.
    """
    grey = image.float().mean(0)
    low, high = float(grey.quantile(0.01)) if grey.numel() < 2**24 else float(grey.min()), float(grey.max())
    grey = ((grey - low) / max(high - low, 1e-6)).clamp(0, 1)
    centre = _middle(list(labels.values()), list(grey.shape))
    rows = [[_plane(grey, labels, axis, centre, spacing) for axis in _axes(grey)]]
    if uncertainty is not None:
        rows.append([_heat(grey, uncertainty, axis, centre, spacing) for axis in _axes(grey)])
    return _data_address(_join(rows))


def _axes(grey: Tensor) -> list[int]:
    """Axes to look along: axial, coronal, sagittal; a 2D image has one."""
    return [2] if grey.shape[2] == 1 else [2, 1, 0]


def _middle(labels: Sequence[Tensor], shape: Sequence[int]) -> list[int]:
    """Voxel with the largest cross-sections of the last label that holds anything, else the scan's middle."""
    for label in reversed(labels):
        inside = label > 0
        if bool(inside.any()):
            others = ((1, 2), (0, 2), (0, 1))
            return [int(inside.sum(dim=rest).argmax()) for rest in others]
    return [n // 2 for n in shape]


def _cut(volume: Tensor, axis: int, centre: Sequence[int], spacing: Sequence[float], *, smooth: bool) -> np.ndarray:
    """A plane as ``[rows, columns]``; up is superior, or anterior; left is the patient's right side, or front."""
    plane = volume.select(axis, centre[axis])  # the remaining axes in order
    first, second = (s for n, s in enumerate(spacing) if n != axis)
    unit = _EDGE / max(plane.shape[0] * first, plane.shape[1] * second)
    size = [max(1, round(plane.shape[0] * first * unit)), max(1, round(plane.shape[1] * second * unit))]
    if smooth:
        plane = resize(plane.float()[None, :, :, None], (*size, 1))[0, :, :, 0]
    else:
        rows = (np.arange(size[0]) * plane.shape[0] // size[0]).tolist()
        columns = (np.arange(size[1]) * plane.shape[1] // size[1]).tolist()
        plane = plane[rows][:, columns]
    # As radiologists look: from the feet and at the face, the patient's right on the left.
    return np.ascontiguousarray(plane.numpy().T[::-1, ::-1])


def _plane(
    grey: Tensor, labels: Mapping[str, Tensor], axis: int, centre: Sequence[int], spacing: Sequence[float]
) -> np.ndarray:
    base = (_cut(grey, axis, centre, spacing, smooth=True) * 255).astype(np.uint8)
    picture = np.stack([base] * 3, axis=-1)
    for name, label in labels.items():
        shown = _cut(label, axis, centre, spacing, smooth=False)
        picture[edges(shown)] = CONTOURS[name]
    return picture


def edges(label: np.ndarray) -> np.ndarray:
    """Voxels of a structure that touch another value."""
    edge = np.zeros(label.shape, dtype=bool)
    edge[1:] |= label[1:] != label[:-1]
    edge[:-1] |= label[:-1] != label[1:]
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    edge[:, :-1] |= label[:, :-1] != label[:, 1:]
    return edge & (label > 0)


def _heat(grey: Tensor, values: Tensor, axis: int, centre: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    base = _cut(grey, axis, centre, spacing, smooth=True)
    heat = np.clip(_cut(values, axis, centre, spacing, smooth=True), 0, 1)
    red = base * (1 - heat) + heat
    green = base * (1 - heat) + 0.35 * heat * heat
    blue = base * (1 - heat)
    result: np.ndarray = (np.stack([red, green, blue], axis=-1) * 255).astype(np.uint8)
    return result


def _join(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Planes side by side, rows below each other, on black."""
    strips = []
    for row in rows:
        height = max(p.shape[0] for p in row)
        padded = [np.pad(p, ((0, height - p.shape[0]), (0, 4), (0, 0))) for p in row]
        strips.append(np.concatenate(padded, axis=1))
    width = max(s.shape[1] for s in strips)
    return np.concatenate([np.pad(s, ((0, 4), (0, width - s.shape[1]), (0, 0))) for s in strips])


def _data_address(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
