"""FM-ABS's supervised loss on annotated planes, and a study whose other scans have no label at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.recipes.engine.prepared_study import PreparedStudy
from lib.specialists.losses import soft_dice
from lib.specialists.losses.partial_cross_entropy import partial_cross_entropy
from lib.specialists.regularisers import Observation
from lib.training.sample import Sample


@dataclass(frozen=True)
class PartialObjective:
    """Partial cross-entropy on the annotated voxels of human labels (FM-ABS, MICCAI 2024, L_sup of Eq. 1).

    Args:
        overlap: share of a partial Dice over the same voxels. The paper has none; small structures gain by it.
    """

    overlap: float = 0.5

    def __call__(self, seen: Observation) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its part for the log; 0 where no window has a human label."""
        labelled = seen.labelled
        if not bool(labelled.any()):
            return seen.logits.sum() * 0.0, {}
        logits, targets, weights = seen.logits[labelled], seen.targets[labelled], seen.weights[labelled]
        loss = (1.0 - self.overlap) * partial_cross_entropy(logits, targets, weights)
        if self.overlap > 0:
            loss = loss + self.overlap * soft_dice(logits.softmax(dim=1), targets, weights)
        return loss, {"human_loss": loss.detach()}


class WholeStudy:
    """A ``SampleSource`` that draws scans without a human label whether they have a pseudo-label or not.

    Their voxels have weight 0, so that only the assistant and the regulariser teach anything about them.

    Args:
        study: the scans.
    """

    def __init__(self, study: PreparedStudy) -> None:
        self._study = study
        self._human = frozenset(study.human())

    def human(self) -> Sequence[str]:
        """Names of scans with a human label."""
        return self._study.human()

    def pseudo(self) -> Sequence[str]:
        """Names of all scans without a human label."""
        return self._study.unlabelled()

    def sample(self, name: str) -> Sample:
        """A scan with its human label, or with background of weight 0."""
        if name in self._human:
            return self._study.sample(name)
        image = self._study.prepared(name).image
        target = torch.zeros(self._study.schema.channels, *image.shape[1:])
        target[0] = 1.0
        return Sample(image, target, torch.zeros(1, *image.shape[1:]))
