"""Metrics of training steps, fetched from the device a few steps at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lib.parallel.ranks import Ranks

_STEPS = {"cpu": 1}
_FEW = 10
"""Steps whose metrics are fetched together from a GPU. To fetch one waits until the GPU has nothing left to do."""

Metrics = Mapping[str, "Tensor | float"]
Step = tuple[int, dict[str, float]]
"""The number of a step, from 1, and its metrics."""


class MetricsQueue:
    """Collects the metrics of steps, and gives them back in their order as plain numbers.

    Args:
        device: ``cpu`` or ``cuda[:n]``.
        ranks: the processes that share the training; the metrics are the mean over them.
    """

    def __init__(self, device: str, ranks: Ranks) -> None:
        self._most = _STEPS.get(device, _FEW)
        self._ranks = ranks
        self._waiting: list[tuple[int, Metrics]] = []

    def add(self, step: int, metrics: Metrics) -> list[Step]:
        """Take the metrics of a step: numbers, or tensors of one value on one device.

        Returns:
            All steps that wait, when they are enough; else none.
        """
        self._waiting.append((step, metrics))
        return self.flush() if len(self._waiting) >= self._most else []

    def flush(self) -> list[Step]:
        """All steps that wait."""
        waiting, self._waiting = self._waiting, []
        tensors = [v.float() for _, metrics in waiting for v in metrics.values() if isinstance(v, Tensor)]
        fetched = iter(torch.stack(tensors).tolist() if tensors else [])
        own = [{name: next(fetched) if isinstance(v, Tensor) else v for name, v in m.items()} for _, m in waiting]
        if self._ranks.world > 1:
            own = [mean_metrics(alike) for alike in zip(*self._ranks.gather(own), strict=True)]
        return [(step, metrics) for (step, _), metrics in zip(waiting, own, strict=True)]


def mean_metrics(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means by name, over those that have a number for it; ``loss`` is no number as soon as one of them is none."""
    means = {}
    for name in sorted({name for each in found for name in each}):
        values = [each[name] for each in found if name in each]
        known = [value for value in values if name == "loss" or not math.isnan(value)]
        means[name] = sum(known) / len(known) if known else math.nan
    return means
