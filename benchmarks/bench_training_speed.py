"""Steps per second and peak memory of the default recipe's training against a plain loop.

The plain loop has the same network, window, batch, loss and optimiser, its batches lie ready in memory, and it does
nothing else: no augmentation, no teacher, no log. Both run in processes of their own, in turns.

    python benchmarks/bench_training_speed.py --preset quick --steps 40 --turns 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

import common
from common import table

sys.path.insert(0, str(common.APP))

from lib.recipes.engine.options import PRESETS
from lib.specialists import SpecialistSpec, build_network
from lib.specialists.augment import Augmentation
from lib.specialists.precision import MixedPrecision
from lib.specialists.regularisers import Observation, build_regulariser
from lib.training.loop import TrainingPlan, train
from lib.training.objectives import LabelObjective
from lib.training.sample import Sample
from lib.training.sampling import TwoStreams

LEAST_SHARE = 0.85
_WARM_UP = 10
"""Steps left out at first. On a GPU as many are told about together, all at the time of the last of them."""
_SCANS = 8


class Phantoms:
    """Scans in memory: noise with two structures.

    Args:
        spec: their grid; a scan is a little larger than the window.
    """

    def __init__(self, spec: SpecialistSpec) -> None:
        generator = torch.Generator().manual_seed(0)
        size = [n + 4 for n in spec.roi_size]
        self._samples = {}
        for number in range(_SCANS):
            image = torch.randn(1, *size, generator=generator).half()
            target = torch.zeros(spec.channels, *size)
            target[0] = 1
            for value in range(1, spec.channels):
                part = [slice(n // 4, n // 2 + value) for n in size]
                target[0, part[0], part[1], part[2]] = 0
                target[value, part[0], part[1], part[2]] = 1
            total = target.sum(0, keepdim=True)
            self._samples[f"scan {number}"] = Sample(image, (target / total).half(), torch.ones(1, *size).half())

    def human(self) -> Sequence[str]:
        """One outlined scan."""
        return list(self._samples)[:1]

    def pseudo(self) -> Sequence[str]:
        """All others."""
        return list(self._samples)[1:]

    def sample(self, name: str) -> Sample:
        """The scan ``name``."""
        return self._samples[name]


def spec_of(preset: str) -> SpecialistSpec:
    """A cubic window of the preset's size, two structures."""
    amount = PRESETS[preset]
    edge = round(amount.roi_voxels ** (1 / 3) / 8) * 8
    return SpecialistSpec(("one", "two"), amount.widths, (1.0, 1.0, 1.0), (edge, edge, edge))


def recipe(spec: SpecialistSpec, plan: TrainingPlan, device: str) -> float:
    """Seconds of a step of the recipe's training, after the first few."""
    times: list[float] = []

    def listen(step: int, metrics: dict[str, float]) -> None:
        times.append(time.perf_counter())

    regulariser = build_regulariser("mean_teacher", plan.steps)
    train(spec, Phantoms(spec), regulariser, plan, device=device, seed=0, listener=listen)
    return (times[-1] - times[_WARM_UP - 1]) / (len(times) - _WARM_UP)


def plain(spec: SpecialistSpec, plan: TrainingPlan, device: str) -> float:
    """Seconds of a step of the plain loop, after the first few."""
    torch.manual_seed(0)
    network = build_network(spec).to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=plan.decay)
    generator = torch.Generator().manual_seed(0)
    streams = TwoStreams(Phantoms(spec), spec.roi_size, plan.batch, plan.human_share, Augmentation(), generator, device)
    batches = [streams.draw() for _ in range(4)]
    objective, precision = LabelObjective(), MixedPrecision(device)
    times: list[float] = []
    for step in range(plan.steps):
        batch = batches[step % len(batches)]
        optimiser.zero_grad(set_to_none=True)
        with precision():
            features = network.features(batch.images)
            logits: Tensor = network.classify(features).float()
        seen = Observation(**vars(batch), features=features, logits=logits, step=step, steps=plan.steps)
        loss, _ = objective(seen)
        precision.step(loss, optimiser, plan.clip)
        if device != "cpu" and step in (_WARM_UP - 1, plan.steps - 1):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
    return (times[-1] - times[_WARM_UP - 1]) / (len(times) - _WARM_UP)


WAYS = {"recipe": recipe, "plain": plain}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", choices=list(PRESETS), help="window, widths and batch")
    parser.add_argument("--steps", type=int, default=40, help="steps of one turn (default: 40)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each way (default: 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--check", action="store_true", help=f"fail below {LEAST_SHARE:.0%} of the plain loop")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    spec = spec_of(options.preset)
    plan = TrainingPlan(epochs=1, iterations=options.steps, batch=PRESETS[options.preset].batch)
    if options.way:
        taken = WAYS[options.way](spec, plan, options.device)
        peak = common.peak_mib()
        if options.device != "cpu":
            peak = torch.cuda.max_memory_allocated() / 2**20
        print(json.dumps({"seconds": taken, "peak": peak}))
        return 0

    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.turns):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--preset", options.preset]
            command += ["--steps", str(options.steps), "--device", options.device]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    seconds = {way: statistics.median(f["seconds"] for f in found[way]) for way in WAYS}
    share = statistics.median(p["seconds"] / r["seconds"] for r, p in zip(found["recipe"], found["plain"], strict=True))
    print(
        f"preset {options.preset}, window {' x '.join(map(str, spec.roi_size))}, batch {plan.batch}, {options.device}"
    )
    rows = [[way, f"{1 / seconds[way]:.2f}", f"{statistics.median(f['peak'] for f in found[way]):.0f}"] for way in WAYS]
    print(table(["way", "steps per second", "peak MiB"], rows))
    print(f"The recipe makes {share:.1%} of the plain loop's steps (median of {options.turns} turns).")
    return 1 if options.check and share < LEAST_SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
