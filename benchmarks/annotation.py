"""Simulated annotation: a strategy picks scans, the truth is what a person would draw, and a specialist is trained.

The strategies' rules are those of the app (``lib.selection``); what a person would do between two trainings is not
simulated: a picked scan is outlined at once.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import DataSet

if TYPE_CHECKING:
    from lib.core.geometry import Volume
    from lib.specialists import Specialist

STRATEGIES = (
    "uniform",
    "template",
    "least_confidence",
    "highest_entropy",
    "highest_entropy_ratio",
    "review",
    "recommended",
)
ROUNDS, PER_ROUND = 5, 2
STEPS_OF_AN_EPOCH = 20

Facts = dict[str, float]
"""What is known about a scan without label after a training: its uncertainties, and ``quality`` of its pseudo-label."""


@dataclass(frozen=True)
class Simulation:
    """Studies drawn from ``train``, one a seed; ``val`` is no part of them.

    Args:
        data: the scans.
        scans: scans of a study; one of them is outlined from the start.
        steps: optimiser steps of a training.
        spacing: voxel edge in mm that specialists work at.
        work: folder for what is in work and propagated labels.
    """

    data: DataSet
    scans: int
    steps: int
    spacing: float
    work: Path

    def study(self, seed: int) -> Study:
        """The study of a seed."""
        return Study(self, sorted(random.Random(seed).sample(self.data.split()["train"], self.scans)))


@dataclass(frozen=True)
class Training:
    """One training.

    Args:
        simulation: what is the same for all.
        seed: of the study and of the training.
        outlined: names, in order.
    """

    simulation: Simulation
    seed: int
    outlined: tuple[str, ...]

    @property
    def key(self) -> str:
        """Strategies that have picked the same scans share a training."""
        return f"{self.seed} {' '.join(self.outlined)}"


class Study:
    """The scans of one seed as the strategies see them; each is described once.

    Args:
        simulation: see there.
        names: the scans.
    """

    def __init__(self, simulation: Simulation, names: Sequence[str]) -> None:
        self._simulation = simulation
        self.names = list(names)

    @cached_property
    def _descriptors(self) -> dict[str, Any]:
        from lib.generalists.mind import Mind
        from lib.selection import describe

        return {name: describe(_scan(self._simulation.data, name), Mind()) for name in self.names}

    @cached_property
    def _typical(self) -> dict[str, float]:
        import torch

        from lib.selection import representativeness

        values = representativeness(torch.stack([self._descriptors[name] for name in self.names]))
        return dict(zip(self.names, values.tolist(), strict=True))

    def first(self) -> str:
        """The scan to outline first; the same for all strategies."""
        return self._covering(self.names, [])[0]

    def picked(self, strategy: str, outlined: Sequence[str], known: Mapping[str, Facts]) -> list[str]:
        """The next scans.

        Args:
            strategy: one of ``STRATEGIES``.
            outlined: scans outlined so far, in this order.
            known: of the scans without label, by name.
        """
        from lib.selection import pick

        taken = list(outlined)
        for _ in range(PER_ROUND):
            free = [name for name in self.names if name in known and name not in taken]
            order = self._order(strategy, free, taken, known)
            taken.append(pick(order, self._descriptors, taken[::-1]))
        return taken[len(outlined) :]

    def _order(self, strategy: str, free: list[str], taken: list[str], known: Mapping[str, Facts]) -> list[str]:
        from lib.selection import by_uncertainty_and_coverage, by_value, evenly, worst_label_first

        def all_of(fact: str) -> Facts:
            return {name: known[name][fact] for name in free}

        if strategy == "uniform":
            return [name for name in evenly(self.names) if name in free]
        if strategy == "template":
            return self._covering(free, taken)
        if strategy == "review":
            return worst_label_first(free, all_of("quality"), free, all_of("uncertainty"))
        if strategy == "recommended":
            return by_uncertainty_and_coverage(free, all_of("uncertainty"), lambda names: self._covering(names, taken))[
                0
            ]
        return by_value(free, all_of(strategy))

    def _covering(self, names: Sequence[str], taken: Sequence[str]) -> list[str]:
        from lib.selection import by_coverage

        return by_coverage(names, self._descriptors, taken, self._typical)


def train(training: Training) -> dict[str, Any]:
    """Train once and look at the result.

    Returns:
        ``val``: mean Dice of the specialist on ``val``; ``pseudo``: that of the pseudo-labels; ``known``: ``Facts`` of
        the scans without label; ``cpu``: seconds of CPU.
    """
    import torch

    from lib.core.allocator import keep_freed_memory
    from lib.core.labels import LabelSchema
    from lib.core.metrics import mean_dice
    from lib.generalists.mind import Mind
    from lib.propagation.registration import RegistrationPropagator
    from lib.recipes import Case, RecipeOptions, RecipeSettings, RunRequest, SilentObserver, run_recipe
    from lib.specialists import load_specialist, predict
    from propagated_once import KeptPropagator

    begun = time.process_time()
    torch.set_num_threads(1)
    keep_freed_memory()
    simulation, data = training.simulation, training.simulation.data
    names, schema = simulation.study(training.seed).names, LabelSchema(data.labels)
    # At a low resolution: on hippocampus it is as good as the default in half the time.
    propagator = KeptPropagator(simulation.work / "propagated", RegistrationPropagator(voxels=20_000, iterations=40))
    folder = simulation.work / f"training-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    edge = simulation.spacing
    result = run_recipe(
        RunRequest(
            [Case(n, data.image(n), data.label(n) if n in training.outlined else None) for n in names],
            schema,
            RecipeOptions(
                preset="quick", rounds=1, max_epochs=max(1, simulation.steps // STEPS_OF_AN_EPOCH), seed=training.seed
            ),
            RecipeSettings(spacing=(edge, edge, edge)),
            folder,
        ),
        generalist=Mind(),
        propagator=propagator,
        observer=SilentObserver(),
    )
    specialist = load_specialist(result.checkpoint, "cpu")
    known, pseudo = _look(training, specialist, result.folder / "rounds")
    val = [
        mean_dice(predict(specialist, _scan(data, name)).labels(), _truth(data, name), schema.count)
        for name in data.split()["val"]
    ]
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "val": round(statistics.fmean(val), 5),
        "pseudo": round(pseudo, 5),
        "known": known,
        "cpu": round(time.process_time() - begun, 1),
    }


def _look(training: Training, specialist: Specialist, rounds: Path) -> tuple[dict[str, Facts], float]:
    """What the app's scoring would know about each pseudo-label, and their true mean Dice.

    All but the way back to an outlined scan, which takes longer than all the rest and hardly ever counts.
    """
    from lib.core.labels import LabelSchema
    from lib.core.metrics import mean_dice
    from lib.core.uncertainty import uncertainty_facts
    from lib.formats.label_files import read_label
    from lib.selection import estimate_quality, opinions_on, shapes_of, threshold_at, uncertainty_of
    from lib.specialists import predict

    data = training.simulation.data
    schema = LabelSchema(data.labels)
    count = schema.count
    humans = [shapes_of(_truth(data, n), _scan(data, n), count) for n in training.outlined]
    threshold = threshold_at(len(training.outlined) / training.simulation.scans)
    known: dict[str, Facts] = {}
    dice = []
    for file in sorted((rounds / "1").glob("*.nii.gz")):
        name = file.name.removesuffix(".nii.gz").split("-", 1)[1]
        scan = _scan(data, name)
        label, propagated = (
            read_label(rounds / part / file.name, scan, schema, may_be_empty=True) for part in ("1", "0")
        )
        found = predict(specialist, scan)
        quality = estimate_quality(
            label,
            scan,
            count,
            opinions=opinions_on(label, count, propagated=propagated, predicted=found.labels()),
            probabilities=found.probabilities,
            humans=humans,
        )
        facts = uncertainty_facts(found.probabilities, found.uncertainty)
        known[name] = {
            "uncertainty": float(str(facts["uncertainty"])),
            **vars(uncertainty_of(found.probabilities, threshold)),
            "quality": quality.raw,
        }
        dice.append(mean_dice(label, _truth(data, name), count))
    return known, statistics.fmean(dice)


def _scan(data: DataSet, name: str) -> Volume:
    from lib.formats.volumes import read_volume

    return read_volume(data.image(name))


def _truth(data: DataSet, name: str) -> Any:
    from lib.core.labels import LabelSchema
    from lib.formats.label_files import read_label

    return read_label(data.label(name), _scan(data, name), LabelSchema(data.labels))
