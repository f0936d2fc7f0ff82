"""What a label of another program says about itself, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pydicom

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.sparse_labels import Annotated
from lib.dicom_seg.parts import text_in
from lib.dicom_series import Slice, Stack, collect, find_stack


@dataclass(frozen=True, eq=False)
class TargetScan:
    """The scan that a label is for.

    Args:
        name: in the study.
        volume: its voxels.
        series: folder with its DICOM files, or its only one; None when it is no DICOM.
    """

    name: str
    volume: Volume
    series: Path | None = None

    @cached_property
    def stack(self) -> Stack | None:
        """Its slices; None when it is no DICOM, or a single image."""
        return None if self.series is None else find_stack(self.series)

    @cached_property
    def _slices(self) -> tuple[Slice, ...]:
        return () if self.series is None else collect(self.series).slices

    @property
    def images(self) -> frozenset[str]:
        """UIDs of its images; empty when it is no DICOM."""
        return frozenset(each.uid for each in self._slices)

    @cached_property
    def frame(self) -> str:
        """UID of its frame of reference, "" when it has none."""
        if not self._slices:
            return ""
        first = self._slices[0].path
        return text_in(pydicom.dcmread(first, stop_before_pixels=True, force=True), "FrameOfReferenceUID")


@dataclass(frozen=True, eq=False)
class Taken:
    """A label that was read.

    Args:
        label: ``[D, H, W]`` uint8 on the scan's grid, values of the study's structures.
        annotated: what is said about what is annotated in it.
        notes: sentences for the user about how it was read.
        missing: names that were wanted, and are there without anything drawn.
    """

    label: np.ndarray
    annotated: Annotated = "auto"
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Belongs:
    """What a label says about its scan.

    Args:
        series: UIDs of the series that it names.
        images: UIDs of the images that it names.
        name: the scan's name, as its own file's name has it.
    """

    series: tuple[str, ...] = ()
    images: frozenset[str] = field(default_factory=frozenset)
    name: str = ""


def guessed() -> UserError:
    """What to say of a pseudo-label of our own that comes back."""
    return UserError("It is a pseudo-label of semisam: only labels that a person has seen become final.", status=422)


class Incoming(Protocol):
    """A label of another program.

    Attributes:
        source: what to call it: its file.
        kind: as people call its format.
        names: names of the structures in it, each once.
        belongs: what it says about its scan.
        created: when it was made, as text that sorts by age; "" when it does not say.
    """

    source: str
    kind: str
    names: tuple[str, ...]
    belongs: Belongs
    created: str

    def read(self, target: TargetScan, values: Mapping[str, int]) -> Taken:
        """Read it.

        Args:
            target: the scan.
            values: the study's value for each name that is wanted; others are left out.

        Raises:
            UserError: (422) when it does not fit the scan, or its structures cannot be one label map.
        """
