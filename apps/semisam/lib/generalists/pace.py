"""How long a model that looks at slices takes on a CPU: said once, because the server answers nobody else meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOG = logging.getLogger(__name__)
LONG_SECONDS = 20.0
"""What takes no longer than this for a scan is not worth a warning."""


class Pace:
    """Measures the first slices that a model encodes, and warns when a scan will take long. Silent on a GPU.

    Args:
        name: of the model.
        device: where it computes.
        most: slices of a scan that are encoded at most.
    """

    def __init__(self, name: str, device: torch.device, most: int) -> None:
        self._name, self._most = name, most
        self._silent = device.type == "cuda"

    @contextmanager
    def watch(self, slices: int) -> Iterator[None]:
        """Around the encoding of so many slices."""
        begun = time.perf_counter()
        yield
        if self._silent:
            return
        self._silent = True
        each = (time.perf_counter() - begun) / slices
        if each * self._most > LONG_SECONDS:
            _LOG.warning(
                "%s took %.1f s for the first slice on this CPU. The features of a scan take up to %d slices, so about "
                "%.0f s a scan; asked from a viewer, the server answers nobody else meanwhile. A batch infer runs "
                "beside it, and a GPU is faster.",
                self._name,
                each,
                self._most,
                each * self._most,
            )
