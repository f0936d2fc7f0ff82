"""Metrics of training steps."""

from __future__ import annotations

import torch

from lib.training.metrics_queue import Metrics, Readings


def told(device: str, steps: int, *, flush: bool) -> list[tuple[int, dict[str, float]]]:
    found: list[tuple[int, dict[str, float]]] = []
    readings = Readings(device, lambda step, metrics: found.append((step, metrics)))
    for step in range(1, steps + 1):
        metrics: Metrics = {"loss": torch.tensor(step / 2), "share": 0.25}
        readings.add(step, metrics)
    if flush:
        readings.flush()
    return found


def test_on_the_cpu_each_step_is_told_at_once() -> None:
    assert told("cpu", 2, flush=False) == [(1, {"loss": 0.5, "share": 0.25}), (2, {"loss": 1.0, "share": 0.25})]


def test_on_a_gpu_steps_are_told_together_and_none_is_lost() -> None:
    assert len(told("cuda", 25, flush=False)) == 20
    found = told("cuda", 25, flush=True)
    assert [step for step, _ in found] == list(range(1, 26))
    assert [metrics["loss"] for _, metrics in found] == [step / 2 for step in range(1, 26)]
