"""The supervised loss, on human labels and pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lib.specialists.losses import noise_tolerant_dice, soft_cross_entropy, soft_dice
from lib.specialists.ramps import linear_ramp
from lib.specialists.regularisers import Observation, rows

Objective = Callable[[Observation], "tuple[Tensor, dict[str, Tensor]]"]
"""Returns the loss and its parts for the log, all scalar tensors."""


@dataclass(frozen=True)
class LabelObjective:
    """Cross-entropy and Dice on human labels, cross-entropy and noise-tolerant Dice on pseudo-labels.

    SemiSAM-O1 (https://arxiv.org/abs/2604.24109): ``0.5 (CE + Dice) + w 0.5 (CE + Dice)``; the second Dice is FM-ABS's,
    which wrong labels pull at less.

    Args:
        pseudo_ramp: share of the steps in which the weight w of the pseudo-labels rises to ``pseudo_weight``.
        pseudo_weight: w at the end of the ramp; 0 ignores the pseudo-labels.
    """

    pseudo_ramp: float = 0.1
    pseudo_weight: float = 1.0

    def __call__(self, seen: Observation) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one step."""
        probabilities = seen.logits.softmax(dim=1)
        total = 0.0 * seen.logits.sum()  # with a gradient, also where no window counts
        metrics: dict[str, Tensor] = {}
        ramp = self.pseudo_weight * linear_ramp(seen.step + 1, self.pseudo_ramp * seen.steps)
        for name, chosen, weight in (("human", seen.labelled, 1.0), ("pseudo", ~seen.labelled, ramp)):
            if weight == 0 or not bool(chosen.any()):
                continue
            overlap = soft_dice if name == "human" else noise_tolerant_dice
            selected = rows(chosen)
            voxel, targets = seen.weights[selected], seen.targets[selected]
            entropy = soft_cross_entropy(seen.logits[selected], targets, voxel)
            part = 0.5 * (entropy + overlap(probabilities[selected], targets, voxel))
            metrics[f"{name}_loss"] = part.detach()
            total = total + weight * part
        return total, metrics
