"""Several propagators for one scan, fused by how far each can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from lib.core.frames import common_frame
from lib.core.geometry import Volume
from lib.core.metrics import mean_dice
from lib.generalists import Generalist

from .base import Propagator, SoftLabels, Template
from .fusion import best_agreement

_SHARPNESS = 6.0
"""Power of a member's quality in its weight: a member of half the quality counts next to nothing."""


class EnsemblePropagator:
    """The confidence-weighted mean of several propagators.

    Confidences of different propagators are not on one scale. Each member's are therefore multiplied by its quality on
    this very pair of scans, which needs no truth of the scan: what it has found is carried back to the template and
    compared with the label a person has drawn there (reverse classification accuracy, Valindria et al. 2017,
    https://doi.org/10.1109/TMI.2017.2665165).

    Args:
        members: the propagators.
    """

    name = "ensemble"

    def __init__(self, members: Sequence[Propagator]) -> None:
        self.members = tuple(members)

    @torch.no_grad()
    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        """Label ``scan`` after ``template``; see ``Propagator``."""
        results = [member.propagate(template, scan, channels, generalist) for member in self.members]
        quality = [
            self._quality(member, result, template, scan, channels, generalist)
            for member, result in zip(self.members, results, strict=True)
        ]
        best = max(quality)
        frame = common_frame([result.frame for result in results])
        total = torch.zeros(frame.shape)
        probabilities = torch.zeros(channels, *frame.shape)
        confidence = torch.zeros(frame.shape)
        for result, own in zip((r.on(frame) for r in results), quality, strict=True):
            weight = (result.confidence + 1e-3) * (own / best if best > 0 else 1.0) ** _SHARPNESS
            probabilities += result.probabilities * weight
            confidence += result.confidence * weight
            total += weight
        probabilities /= total
        return replace(
            results[0],
            frame=frame,
            probabilities=probabilities,
            confidence=confidence / total * probabilities.amax(0),
            similarity=max(r.similarity for r in results),
            agreement=best_agreement(results),
        )

    def _quality(
        self,
        member: Propagator,
        result: SoftLabels,
        template: Template,
        scan: Volume,
        channels: int,
        generalist: Generalist,
    ) -> float:
        """Dice of the label carried back with the template's own, 0..1."""
        label = result.labels()
        if not np.any(label):
            return 0.0
        back = member.propagate(Template("", scan, label), template.scan, channels, generalist)
        return mean_dice(back.labels(), template.label, channels - 1)
