"""Scans with several channels: one file each, named as nnU-Net names them, or one file with four axes.

The administrator says which channels the scans have (``--conf channels T1,T2``): names such as ``scan_0001`` are those
of scans, too, and a fourth axis may be time. Then ``case_0000.nii.gz`` is a scan, ``case_0001.nii.gz`` beside it its
second channel, and so on; a file with as many volumes as there are channels has all of them.

nnU-Net's documentation: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from lib.core.errors import UserError
from lib.core.geometry import MOST_SHIFT, Volume, corner_shift

_FILE = re.compile(r"(?P<case>.+)_(?P<number>\d{4})(?P<ending>\.nii\.gz|\.nii|\.nrrd|\.mha)", re.IGNORECASE)
_SAME = 1e-3
"""Of a voxel: grids that lie nearer to each other are one."""

_names: tuple[str, ...] = ()


class MissingChannelError(UserError):
    """A scan has fewer channels than the administrator says that scans have."""


def set_channels(names: tuple[str, ...]) -> None:
    """Say for this process which channels scans have; none or one for plain scans."""
    global _names  # noqa: PLW0603 (one process serves one study)
    _names = names if len(names) > 1 else ()


def channels() -> tuple[str, ...]:
    """Names of the channels, the first one first; empty for plain scans."""
    return _names


def is_further(name: str) -> bool:
    """Whether a file of this name is a further channel of a scan, and no scan itself."""
    return 0 < (_number(name) or 0) < len(_names)


def is_one_of_several(name: str) -> bool:
    """Whether a file of this name holds one channel, and others belong to the same scan."""
    return is_first(name) or is_further(name)


def is_first(name: str) -> bool:
    """Whether a file of this name is the first channel of a scan whose others are in files of their own."""
    return _number(name) == 0


def _number(name: str) -> int | None:
    """Which channel a file of this name is, from 0; None for whole scans."""
    found = _FILE.fullmatch(name) if _names else None
    return None if found is None else int(found["number"])


def further_files(path: Path) -> list[Path]:
    """The files of a scan's further channels in order, whether they are there or not; none for other scans."""
    if not is_first(path.name):
        return []
    found = _FILE.fullmatch(path.name)
    assert found is not None
    return [path.with_name(f"{found['case']}_{n:04d}{found['ending']}") for n in range(1, len(_names))]


def first_file(path: Path) -> Path:
    """The file of the first channel of a scan, by that of a further one."""
    found = _FILE.fullmatch(path.name)
    return path if found is None else path.with_name(f"{found['case']}_0000{found['ending']}")


def volumes_in(array: np.ndarray) -> bool:
    """Whether an array of a file holds all channels of a scan along its fourth axis, ``[D, H, W, C]``."""
    return bool(_names) and array.ndim == 4 and array.shape[3] == len(_names)


def with_channels(scan: Volume, path: Path, read: Callable[[Path], Volume]) -> Volume:
    """A scan with its further channels on its own grid.

    Args:
        scan: as its file holds it: with one channel, or with all.
        path: its file.
        read: reads the file of one channel.

    Raises:
        MissingChannelError: (422) when there is no file with one of them.
        UserError: (422) when one shows another part of the body.
    """
    if not _names or scan.further:
        return scan
    files = further_files(path)
    if not files:
        raise MissingChannelError(
            f"{path.name} has one channel, but scans of this study have {len(_names)} ({', '.join(_names)}). Name its "
            f"channels as nnU-Net does (NAME_0000.nii.gz, NAME_0001.nii.gz), or save them as one file with four axes.",
            status=422,
        )
    found = []
    for name, file in zip(_names[1:], files, strict=True):
        if not file.is_file():
            raise MissingChannelError(
                f"{path.name}: its channel {name!r} is missing. There is no {file.name} beside it; bring it into the "
                "study, or take the other channels of this scan out of it.",
                status=422,
            )
        other = read(file)
        if other.shape == scan.shape and corner_shift(other.affine, scan.affine, scan.shape) <= _SAME * MOST_SHIFT:
            found.append(other.array)
        else:
            found.append(_onto(other, scan, file.name))
    return replace(scan, further=tuple(found))


def _onto(other: Volume, scan: Volume, name: str) -> np.ndarray:
    """A channel on another one's grid, ``[D, H, W]`` float32: interpolated linearly, its border goes on outside it.

    Raises:
        UserError: (422) when they have no place in common.
    """
    there = np.linalg.inv(other.affine) @ scan.affine
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(scan.shape) - 1)
    placed = corners @ there[:3, :3].T + there[:3, 3]
    if (placed.max(axis=0) < 0).any() or (placed.min(axis=0) > np.array(other.shape) - 1).any():
        raise UserError(
            f"{name} shows another part of the body than the first channel of its scan. Check its export.", status=422
        )
    # Of a finer grid, a voxel takes the mean of those that it covers, about.
    steps = np.abs(there[:3, :3]).sum(axis=1)
    blurred = gaussian_filter(other.array, np.maximum(steps - 1, 0) / 2) if (steps > 1.5).any() else other.array
    result: np.ndarray = affine_transform(
        blurred.astype(np.float32, copy=False),
        there[:3, :3],
        there[:3, 3],
        output_shape=scan.shape,
        output=np.float32,
        order=1,
        mode="nearest",
    )
    return result
