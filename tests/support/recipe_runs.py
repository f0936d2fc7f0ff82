"""Runs of recipes on a tiny study: its cases, a propagator that only copies, and an observer that can end the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.core.resampling import resize
from lib.generalists import Generalist, create_generalist
from lib.propagation import Propagator, SoftLabels, Template
from lib.recipes import Case, FinishedRound, Progress, RecipeOptions, RecipeSettings, RunRequest, RunResult, run_recipe
from tiny_study import TINY_LABELS

SCHEMA = LabelSchema(TINY_LABELS)


OPTIONS = RecipeOptions(seed=3)


class CopyPropagator:
    """Puts the template's label over the scan as it lies: quick, and good enough here."""

    name = "copy"

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        frame = frame_of(scan)
        probabilities = resize(frame_of(template.scan).one_hot(template.label, channels), frame.shape)
        confidence = torch.full(frame.shape, 0.5)
        return SoftLabels(frame, probabilities, confidence, (template.name,), 0.5)


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


@dataclass
class Listener:
    """Remembers everything."""

    steps: list[Progress] = field(default_factory=list)
    rounds: list[FinishedRound] = field(default_factory=list)

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress)

    def round_finished(self, finished: FinishedRound) -> None:
        assert all(label.path.is_file() for label in finished.pseudo_labels.values())
        assert finished.checkpoint is None or finished.checkpoint.is_file()
        self.rounds.append(finished)


def cases_of(study: Path) -> list[Case]:
    cases = []
    for image in sorted(study.glob("*.nii.gz")):
        label = study / "labels" / "final" / image.name
        cases.append(Case(image.name.removesuffix(".nii.gz"), image, label if label.exists() else None))
    return cases


def run(
    cases: Sequence[Case],
    folder: Path,
    listener: Listener | None = None,
    options: RecipeOptions = OPTIONS,
    settings: RecipeSettings | None = None,
    propagator: Propagator | None = None,
) -> RunResult:
    return run_recipe(
        RunRequest(cases, SCHEMA, options, settings or RecipeSettings(), folder),
        generalist=create_generalist("mind"),
        propagator=propagator or CopyPropagator(),
        observer=listener or Listener(),
    )
