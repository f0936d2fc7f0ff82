"""What a method had found itself, where its answer was changed before a person saw it."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor

_KEPT = 8


class FoundBefore:
    """The latest answers that a person saw, and what a method had found of each.

    A dialogue gives back the answer that was seen. The method goes on from its own: what others make of an answer,
    right or wrong, must not grow from click to click.
    """

    def __init__(self) -> None:
        self._found: LRUCache[bytes, np.ndarray] = LRUCache(_KEPT)

    @property
    def bytes(self) -> int:
        """Memory of what is noted."""
        return sum(bits.nbytes for bits in list(self._found.values()))

    def note(self, seen: Tensor, found: Tensor) -> None:
        """Keep what was found of an answer; both ``[D, H, W]`` in 0..1."""
        self._found[_key(seen)] = np.packbits(found.numpy() >= 0.5)

    def of(self, seen: Tensor) -> Tensor:
        """What was found of an answer ``[D, H, W]``, 0 or 1; one that is not known is given back as it is."""
        bits = self._found.get(_key(seen))
        if bits is None:
            return seen
        return torch.from_numpy(np.unpackbits(bits, count=seen.numel()).reshape(seen.shape).astype(np.float32))


def _key(answer: Tensor) -> bytes:
    """Of an answer in 0..1 what is inside."""
    return hashlib.sha1(np.packbits(answer.cpu().numpy() >= 0.5).tobytes(), usedforsecurity=False).digest()
