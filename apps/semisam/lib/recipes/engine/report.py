"""What a recipe takes, what it reports while it runs, and what it gives back.

A server needs four things of this package: ``parse_options`` (choices.py), a ``RunRequest`` that describes the study,
an ``Observer`` of its own, and ``run_recipe`` (run.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lib.core.labels import LabelSchema
from lib.core.sparse_labels import Annotated

from .options import RecipeOptions


@dataclass(frozen=True)
class Case:
    """One scan of the study.

    Args:
        name: id of the scan in the study, unique.
        image: its file or DICOM folder.
        label: its human ('final') label on the grid of the scan, None when it has none.
        annotated: what a person says is annotated in the label.
        negative: whether the label says, by being empty, that the scan has none of the structures.
    """

    name: str
    image: Path
    label: Path | None = None
    annotated: Annotated = "auto"
    negative: bool = False


@dataclass(frozen=True)
class RecipeSettings:
    """What the administrator fixed for this server; None leaves the choice to the study's scans and the device.

    Args:
        spacing: voxel size in mm (right, anterior, superior) that the specialist works at.
        roi_size: voxels of the specialist's window along the same axes.
    """

    spacing: tuple[float, float, float] | None = None
    roi_size: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class RunRequest:
    """What is to be run; all of it can be sent to other processes.

    Args:
        cases: every scan of the study that may be used, with names that are unique.
        schema: the structures.
        options: what the user chose.
        settings: what the administrator chose.
        folder: where run folders are kept.
    """

    cases: Sequence[Case]
    schema: LabelSchema
    options: RecipeOptions
    settings: RecipeSettings
    folder: Path


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
        epoch: epochs finished, counted over all rounds.
        total_epochs: epochs of all rounds.
        round: current round; 0 is the propagation.
        rounds: last round.
        stage: ``propagation``, ``training``, ``prediction`` or ``refinement``.
        best_metric: always a number, 0..1: the best agreement so far between the specialist and what it learns from
            (human labels and pseudo-labels; no truth of an unlabelled scan is looked at). 0 before there is one.
        seconds_left: estimate for the whole run.
        metrics: values of this stage by name (losses, counts).
        note: where a killed run was continued, in words; empty for a run from the start.
    """

    epoch: int
    total_epochs: int
    round: int
    rounds: int
    stage: str
    best_metric: float
    seconds_left: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class PseudoLabel:
    """A label that the app made for an unlabelled scan.

    Args:
        path: NIfTI label map on the scan's own grid.
        params: what to store beside it: ``PseudoLabelFacts`` as plain types.
    """

    path: Path
    params: Mapping[str, object]

    @property
    def agreement(self) -> float | None:
        """Mean Dice with the label of the round before, 0..1; None where there was none."""
        value = self.params.get("agreement")
        return float(value) if isinstance(value, (int, float)) else None


@dataclass(frozen=True)
class FinishedRound:
    """What a round left behind; all its files are complete when it is reported.

    Args:
        index: 0 for the propagation, then 1..rounds.
        checkpoint: the specialist of this round, None in round 0.
        pseudo_labels: by case name; only unlabelled scans that could be read.
        best_metric: see ``Progress``.
    """

    index: int
    checkpoint: Path | None
    pseudo_labels: Mapping[str, PseudoLabel]
    best_metric: float


class Observer(Protocol):
    """Listens to a run. Called from the thread that runs the recipe; what it raises ends the run."""

    def progress(self, progress: Progress) -> None:
        """Called at least every few seconds."""
        ...

    def round_finished(self, finished: FinishedRound) -> None:
        """Called once after each round, and once more for the last finished round of a run that is resumed.

        The second call is there because the process may have been killed before it could act on the first.
        """
        ...


class SilentObserver:
    """An observer that does nothing."""

    def progress(self, progress: Progress) -> None:
        """Do nothing."""

    def round_finished(self, finished: FinishedRound) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class RunResult:
    """The outcome of a finished run.

    Args:
        folder: the run's folder.
        rounds: rounds trained, counting those of a resumed run.
        best_metric: see ``Progress``.
        checkpoint: the last round's specialist: the one to publish.
        pseudo_labels: the last round's, by case name.
        skipped: why a scan was left out, by case name.
        resumed_at: the round this run was continued at, None for a run from the start.
        report: HTML page about the run, None when it could not be made.
        note: where it was continued and why there, in words; empty for a run from the start.
    """

    folder: Path
    rounds: int
    best_metric: float
    checkpoint: Path
    pseudo_labels: Mapping[str, PseudoLabel]
    skipped: Mapping[str, str]
    resumed_at: int | None
    report: Path | None = None
    note: str = ""
