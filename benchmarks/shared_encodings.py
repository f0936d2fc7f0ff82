"""A scan's slices are encoded once for all structures and methods that ask about them, and timed as if each had been.

MobileSAM's encoder takes about two seconds a slice on a CPU core: most of such a benchmark's time.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import torch
from torch import Tensor, nn


class SharedEncodings(nn.Module):
    """An image encoder that remembers what it encoded since ``forget``.

    Args:
        encoder: the network's own, ``[1, 3, size, size]`` to ``[1, C, g, g]``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.img_size = getattr(encoder, "img_size", None)
        self.saved = 0.0
        """Processor seconds that encodings known already had taken when they were made."""
        self._known: dict[bytes, tuple[Tensor, float]] = {}

    @classmethod
    def of(cls, network: Any) -> SharedEncodings:
        """Put between a network and its encoder."""
        shared = cls(network.image_encoder)
        network.image_encoder = shared
        return shared

    def forward(self, images: Tensor) -> Tensor:
        """The encoder's features; of images seen before without encoding them again."""
        key = hashlib.sha1(images.numpy().tobytes(), usedforsecurity=False).digest()
        if key in self._known:
            features, seconds = self._known[key]
            self.saved += seconds
            return features
        # This thread's and its helpers' alike: nothing else runs meanwhile but what waits for this.
        start = time.process_time()
        with torch.no_grad():
            found: Tensor = self.encoder(images)
        self._known[key] = found, time.process_time() - start
        return found

    def forget(self) -> None:
        """Begin with the next scan."""
        self._known.clear()
