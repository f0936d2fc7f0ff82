"""Metrics of training steps."""

from __future__ import annotations

import math

import pytest
import torch

from lib.parallel.ranks import Ranks
from lib.training.metrics_queue import Metrics, MetricsQueue, Step, mean_metrics


def told(device: str, steps: int, *, flush: bool) -> list[Step]:
    found: list[Step] = []
    queue = MetricsQueue(device, Ranks())
    for step in range(1, steps + 1):
        metrics: Metrics = {"loss": torch.tensor(step / 2), "share": 0.25}
        found += queue.add(step, metrics)
    return found + queue.flush() if flush else found


def test_on_the_cpu_each_step_is_told_at_once() -> None:
    assert told("cpu", 2, flush=False) == [(1, {"loss": 0.5, "share": 0.25}), (2, {"loss": 1.0, "share": 0.25})]


def test_on_a_gpu_steps_are_told_together_and_none_is_lost() -> None:
    assert len(told("cuda", 25, flush=False)) == 20
    found = told("cuda", 25, flush=True)
    assert [step for step, _ in found] == list(range(1, 26))
    assert [metrics["loss"] for _, metrics in found] == [step / 2 for step in range(1, 26)]


def test_metrics_of_several_processes_are_the_mean_over_those_that_have_one() -> None:
    found = mean_metrics([{"loss": 1.0, "agreement": math.nan}, {"loss": 2.0, "agreement": 0.5, "generalist": 4.0}])
    assert found == {"loss": 1.5, "agreement": 0.5, "generalist": 4.0}
    assert math.isnan(mean_metrics([{"agreement": math.nan}] * 2)["agreement"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_in_one_process_is_none_in_all(bad: float) -> None:
    assert not math.isfinite(mean_metrics([{"loss": bad}, {"loss": 1.0}])["loss"])
