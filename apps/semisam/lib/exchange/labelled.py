"""A scan with its label on the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.core.geometry import Volume
from lib.core.labels import count_values
from lib.core.sparse_labels import Planes
from lib.dicom_seg import Origin, Segment


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """A scan with its label.

    Args:
        name: of the scan in the study.
        scan: its voxels.
        label: ``[D, H, W]`` uint8 on the scan's grid, values of ``structures``.
        structures: all of the study's, with the values 1..N in order.
        origin: how the label came about; ``origin.person`` says whether a person has had the last word.
        planes: what is annotated in it if not all of it is.
        quality: estimated mean Dice of a pseudo-label, 0..1; None where nobody has estimated it, or a person has drawn
            the label.
        saved: when it was saved, in seconds since 1970; 0 when that is not known.
        by: who or what has made it, "" when that is not known.
        series: folder with the scan's DICOM files, or its only one; None when the scan is no DICOM.
        probabilities: gives the probability of each structure, in order, ``[D, H, W]`` float32 in 0..1 on the scan's
            grid; None when it is not wanted.
    """

    name: str
    scan: Volume
    label: np.ndarray
    structures: Sequence[Segment]
    origin: Origin
    planes: Planes | None = None
    quality: float | None = None
    saved: int = 0
    by: str = ""
    series: Path | None = None
    probabilities: Callable[[], Iterator[np.ndarray]] | None = None

    @property
    def kind(self) -> str:
        """What tables call the label."""
        return "final" if self.origin.person else "pseudo-label"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the structures, in the order of their values."""
        return tuple(each.name for each in self.structures)

    def volumes(self) -> dict[str, float] | None:
        """Volume of each structure in ml; None where it says nothing: of slices only, or in a 2D image."""
        if self.planes is not None or self.scan.flat:
            return None
        counts = count_values(self.label)
        return {each.name: float(counts[each.value]) * self.scan.voxel_ml for each in self.structures}


def is_annotated(case: LabelledScan) -> np.ndarray | None:
    """Which voxels somebody has looked at, ``[D, H, W]`` boolean; None when it is all of them."""
    return None if case.planes is None else case.planes.mask(case.label.shape)
