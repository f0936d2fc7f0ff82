"""Metrics of training steps, fetched from the device a few steps at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_STEPS = {"cpu": 1}
_FEW = 10
"""Steps whose metrics are fetched together from a GPU. To fetch one waits until the GPU has nothing left to do."""

Metrics = Mapping[str, "Tensor | float"]


class Readings:
    """Collects the metrics of steps, and tells about them in their order.

    Args:
        device: ``cpu`` or ``cuda[:n]``.
        tell: called with the number of steps done and the step's metrics.
    """

    def __init__(self, device: str, tell: Callable[[int, dict[str, float]], None]) -> None:
        self._most = _STEPS.get(device, _FEW)
        self._tell = tell
        self._waiting: list[tuple[int, Metrics]] = []

    def add(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step: numbers, or tensors of one value on one device."""
        self._waiting.append((step, metrics))
        if len(self._waiting) >= self._most:
            self.flush()

    def flush(self) -> None:
        """Tell about all steps that wait."""
        waiting, self._waiting = self._waiting, []
        tensors = [v.float() for _, metrics in waiting for v in metrics.values() if isinstance(v, Tensor)]
        fetched = iter(torch.stack(tensors).tolist() if tensors else [])
        for step, metrics in waiting:
            self._tell(step, {name: next(fetched) if isinstance(v, Tensor) else v for name, v in metrics.items()})
