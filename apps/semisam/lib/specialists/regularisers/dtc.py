"""Dual-task consistency.

Luo et al., "Semi-supervised medical image segmentation through dual-task consistency", AAAI 2021,
https://arxiv.org/abs/2009.04448. A second head gives each structure's signed distance map; segmentation and distances
must agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.specialists.losses import dual_task_consistency, signed_distance_maps, signed_distance_mse
from lib.specialists.networks import SpecialistNetwork
from lib.specialists.ramps import sigmoid_ramp

from .base import Observation
from .supervised import Supervised


class DualTask(Supervised):
    """Distances are learned from human labels, and both heads must agree on all scans.

    Args:
        weight: of the agreement at the end of the training; it rises by a sigmoid ramp.
        distance_weight: of the distances.
        sharpness: k of the step from distances to a segmentation.
    """

    name = "dtc"

    def __init__(self, weight: float = 1.0, distance_weight: float = 0.3, sharpness: float = 1500.0) -> None:
        self.weight = weight
        self.distance_weight = distance_weight
        self.sharpness = sharpness
        self._head: nn.Conv3d | None = None

    def start(self, student: SpecialistNetwork, classes: int, steps: int, generator: torch.Generator) -> None:
        """Make the head that predicts distances, on the student's device."""
        device = next(student.parameters()).device
        self._head = nn.Conv3d(student.width, classes - 1, kernel_size=1).to(device)

    @property
    def head(self) -> nn.Conv3d:
        """From the student's features to one distance map a structure, before the tanh.

        Raises:
            RuntimeError: before ``start``.
        """
        if self._head is None:
            raise RuntimeError("DualTask.start must be called first")
        return self._head

    def parameters(self) -> Sequence[nn.Parameter]:
        """The second head."""
        return tuple(self.head.parameters())

    def loss(self, seen: Observation) -> Tensor:
        """Equation 5 without the segmentation's own loss: distances of human labels, agreement on all scans."""
        distances = self.head(seen.features).float().tanh()
        ramp = sigmoid_ramp(seen.step, seen.steps)
        agreed = dual_task_consistency(seen.logits.softmax(dim=1), distances, self.sharpness)
        total = seen.share * self.weight * ramp * agreed
        # How far a voxel is from a border is only known where the whole window is annotated.
        whole = seen.labelled.to(seen.weights.device) & (seen.weights.flatten(1).amin(dim=1) > 0)
        if bool(whole.any()):
            truth = signed_distance_maps(seen.targets[whole])
            total = total + self.distance_weight * signed_distance_mse(distances[whole], truth)
        return total
