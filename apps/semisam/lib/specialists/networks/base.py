"""What every specialist network offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class SpecialistNetwork(nn.Module, ABC):
    """A segmentation network in two parts, so that regularisers can add heads of their own.

    ``forward`` turns ``[B, inputs, D, H, W]`` into logits ``[B, classes, D, H, W]``.
    """

    width: int
    """Channels of ``features``."""

    layout: torch.memory_format = torch.channels_last_3d
    """The layout of the weights. Channels last is the faster one for narrow convolutions, on CPUs by up to a half."""

    @abstractmethod
    def features(self, image: Tensor) -> Tensor:
        """The last features before the head: ``[B, inputs, D, H, W]`` to ``[B, width, D, H, W]``."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Logits ``[B, classes, D, H, W]`` from ``features``."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits: ``[B, inputs, D, H, W]`` to ``[B, classes, D, H, W]``."""
        return self.classify(self.features(image))
