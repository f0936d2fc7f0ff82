"""What every propagator offers and gives back."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from torch import Tensor

from lib.core.frames import Frame
from lib.core.geometry import Volume
from lib.generalists import Generalist

from .agreement import SOUND


@dataclass(frozen=True, eq=False)
class Template:
    """An outlined scan.

    Args:
        name: id of the scan in the study.
        scan: the scan.
        label: ``[D, H, W]`` uint8 on the scan's grid.
    """

    name: str
    scan: Volume
    label: np.ndarray


_LEAST_CONFIDENCE = 0.395
"""Mean confidence of the structures' voxels below which a label as a whole is hardly right."""
_DOUBTFUL = 0.3
"""Mean confidence of a structure's voxels below which it is hardly ever right."""
_LEAST_TRACE = 0.02
"""Probability of a structure at its most probable place, below which it is not there."""


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Labels of a scan with their probabilities, on a working grid; tensors on the CPU.

    Args:
        frame: where the working grid lies in the scan; what is outside its box is background.
        probabilities: ``[1 + N, D, H, W]`` float32, background first, sum 1.
        confidence: ``[D, H, W]`` float32 in 0..1: how far the label of a voxel can be trusted.
        templates: names of the scans they come from.
        similarity: how well the templates match the scan, 0..1, by the features' agreement after matching.
        elsewhere: confidence in the background outside the frame's box, 0..1.
        agreement: correlation of template and scan around the structures after the matching, 0..1: what tells a
            propagation that failed. None where the propagator cannot tell.
    """

    frame: Frame
    probabilities: Tensor
    confidence: Tensor
    templates: tuple[str, ...]
    similarity: float
    elsewhere: float = 0.0
    agreement: float | None = None

    def labels(self) -> np.ndarray:
        """Label map ``[D, H, W]`` uint8 in the scan's own grid."""
        return self.frame.labels_back(self.probabilities)

    def probability_map(self, value: int) -> np.ndarray:
        """Probability of one class ``[D, H, W]`` float32 in 0..1 in the scan's own grid; 0 outside the frame's box.

        Args:
            value: of a structure, 1..N.
        """
        return self.frame.map_back(self.probabilities[value]).clip(0, 1)

    def traces(self) -> Tensor:
        """Where structures may be, ``[D, H, W]`` boolean: half as probable as at their most probable place, and more.

        A structure smaller than a voxel of the working grid is nowhere more probable than background, and yet there.
        """
        structures = self.probabilities[1:]
        peaks = structures.flatten(1).amax(1).view(-1, 1, 1, 1)
        return ((structures >= 0.5 * peaks) & (peaks > _LEAST_TRACE)).any(0)

    def on(self, frame: Frame) -> SoftLabels:
        """The same on another working grid of the scan; outside one's own all is background."""
        if frame == self.frame:
            return self
        probabilities, inside = self.frame.onto(self.probabilities, frame)
        probabilities[:1] += 1.0 - inside
        confidence = self.frame.onto(self.confidence[None], frame)[0][0] + self.elsewhere * (1.0 - inside[0])
        return replace(self, frame=frame, probabilities=probabilities, confidence=confidence)

    def confidences(self) -> tuple[float | None, ...]:
        """Mean confidence of the voxels of each structure, 0..1; None for structures that have none."""
        most = self.probabilities.amax(0)
        there = [(each >= most) & (each > self.probabilities[0]) for each in self.probabilities[1:]]
        return tuple(float(self.confidence[each].mean()) if bool(each.any()) else None for each in there)

    def mean_confidence(self) -> float:
        """Mean over the structures of their mean confidence (of all voxels when there are none), 0..1.

        Over the structures, as a mean Dice is: a large one would hide that small ones are in the wrong place.
        """
        known = [each for each in self.confidences() if each is not None]
        return statistics.fmean(known) if known else float(self.confidence.mean())

    def doubtful(self) -> tuple[int, ...]:
        """Values of the structures that are hardly right; none where the propagator cannot tell."""
        if self.agreement is None:
            return ()
        return tuple(n for n, each in enumerate(self.confidences(), 1) if each is not None and each < _DOUBTFUL)

    def sound(self) -> bool | None:
        """Whether the label as a whole is likely to be about right; None where the propagator cannot tell."""
        if self.agreement is None:
            return None
        # As `argmax(0) > 0`, which takes sixty times as long.
        inside = self.probabilities[1:].amax(0) > self.probabilities[0]
        mean = float(self.confidence[inside].mean() if bool(inside.any()) else self.confidence.mean())
        return self.agreement >= SOUND and mean >= _LEAST_CONFIDENCE


class Propagator(Protocol):
    """Carries the labels of one template over to a scan."""

    name: str

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        """Label ``scan`` after ``template``.

        Args:
            template: the outlined scan; orientation, spacing, size and intensity scale may differ.
            scan: the scan to label.
            channels: number of classes, background counted.
            generalist: gives the features to match.

        Raises:
            UserError: when a scan is too small for the features or the matching.
        """
        ...
