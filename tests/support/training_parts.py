"""Small parts for tests of losses, regularisers and training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.specialists.networks import SpecialistNetwork
from lib.specialists.regularisers import Observation
from lib.training.sample import Sample


class TinyNetwork(SpecialistNetwork):
    """Two convolutions of one voxel."""

    def __init__(self, classes: int = 2, width: int = 3) -> None:
        super().__init__()
        self.width = width
        self.body = nn.Conv3d(1, width, 1)
        self.head = nn.Conv3d(width, classes, 1)

    def features(self, image: Tensor) -> Tensor:
        return self.body(image)

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)


class Shapes:
    """Scans with a bright block and a dark plate, outlined or not.

    Args:
        human: names of the outlined scans.
        pseudo: names of the others, whose labels are a voxel off.
    """

    def __init__(self, human: Sequence[str] = ("h",), pseudo: Sequence[str] = ("p", "q")) -> None:
        self._human, self._pseudo = human, pseudo

    def human(self) -> Sequence[str]:
        return self._human

    def pseudo(self) -> Sequence[str]:
        return self._pseudo

    def sample(self, name: str) -> Sample:
        target = torch.zeros(3, 16, 16, 16)
        target[1, 3:9, 4:10, 5:11] = 1
        target[2, 11:14, 2:12, 3:13] = 1
        target[0] = 1 - target[1:].sum(0)
        image = 2 * target[1:2] - 2 * target[2:]
        if name not in self._human:
            target = target.roll(1, dims=2)
        return Sample(image.half(), target.half(), torch.ones(1, 16, 16, 16))


def observe(
    student: SpecialistNetwork,
    images: Tensor,
    human: list[bool],
    *,
    targets: Tensor | None = None,
    weights: Tensor | None = None,
    extra: Tensor | None = None,
    step: int = 10,
    steps: int = 10,
) -> Observation:
    """What a step of a training would hand to its losses; the gradient of the logits is kept."""
    features = student.features(images)
    logits = student.classify(features)
    logits.retain_grad()
    batch, classes, *size = logits.shape
    return Observation(
        images=images,
        targets=torch.full_like(logits, 1.0 / classes) if targets is None else targets,
        weights=torch.ones(batch, 1, *size) if weights is None else weights,
        labelled=torch.tensor(human),
        extra=torch.zeros(batch, 0, *size) if extra is None else extra,
        features=features,
        logits=logits,
        step=step,
        steps=steps,
    )


def gradient(seen: Observation) -> Tensor:
    """The gradient of the student's logits after ``backward``, zero where none arrived."""
    return torch.zeros_like(seen.logits) if seen.logits.grad is None else seen.logits.grad
