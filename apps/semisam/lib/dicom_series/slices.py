"""One image plane of a DICOM series: what its header says, without its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Storage:
    """How the pixels of a file are stored (Image Pixel Module, PS3.3 C.7.6.3).

    Args:
        syntax: UID of the transfer syntax.
        offset: first byte of the pixels in the file, None where they are compressed, deflated or big endian.
        allocated: bits that a pixel takes.
        bits: bits that count.
        signed: whether values may be negative.
        inverted: whether bright means dark (MONOCHROME1).
        colour: what kind of colours it holds, "" for shades of grey.
        frames: number of frames.
    """

    syntax: str
    offset: int | None
    allocated: int
    bits: int
    signed: bool
    inverted: bool
    colour: str
    frames: int


@dataclass(frozen=True)
class Slice:
    """One plane: a file of one image, or one frame of a multi-frame file.

    Args:
        path: its file.
        frame: which frame of the file, from 0; None for a file that says nothing of frames, as a rule of one image.
        kind: its SOP class.
        uid: its SOP instance UID.
        series: UID of its series.
        modality: as CT or MR.
        number: its instance number, None when it has none.
        rows, columns: its size.
        position: centre of its first pixel in mm, LPS (Image Position (Patient), PS3.3 C.7.6.2); None if not said.
        orientation: directions of its rows and columns (six cosines); None if not said.
        spacing: mm between rows and between columns; None if not said.
        rescale: slope and intercept from stored to real values; None if not said.
        localizer: whether it says so itself.
        marks: what may tell volumes at one place apart, as text by name, see ``headers``.
        storage: how its pixels are stored.
        description: of its series.
        thickness: its thickness in mm, None if not said; says nothing about the step to the next one.
        file: name of its file for a person, "" where the file is a copy whose name nobody knows.
    """

    path: Path
    frame: int | None
    kind: str
    uid: str
    series: str
    modality: str
    number: int | None
    rows: int
    columns: int
    position: Vector | None
    orientation: Vector | None
    spacing: Vector | None
    rescale: tuple[float, float] | None
    localizer: bool
    storage: Storage
    description: str = ""
    thickness: float | None = None
    file: str = ""
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def placed(self) -> bool:
        """Whether it says where it lies, and how large its pixels are."""
        return self.position is not None and self.orientation is not None and self.spacing is not None

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors ``[3, 3]`` (rows of the array) along its rows, along its columns, and across it, LPS."""
        assert self.orientation is not None
        along = np.array(self.orientation[:3])
        along /= np.linalg.norm(along)
        down = np.array(self.orientation[3:])
        down -= along * (along @ down)
        down /= np.linalg.norm(down)
        return np.stack([along, down, np.cross(along, down)])

    @property
    def text(self) -> str:
        """How a person finds it: by its number, its file and its place."""
        beside = f" ({self.file})" if self.file else ""
        if self.frame is not None:
            name = f"frame {self.frame + 1}{beside}"
        elif self.number is not None:
            name = f"image {self.number}{beside}"
        else:
            name = f"the image {self.file or self.uid}"
        return f"{name} at {place_text(self.position)}" if self.position is not None else name


def place_text(position: Vector) -> str:
    """A place in mm for a person."""
    return "(" + ", ".join(f"{round(v, 2) + 0.0:g}" for v in position) + ") mm"
