"""Planning a run: the working grid, the work to do, and what the run's ``Context`` is made of."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lib.core.files import check_space
from lib.generalists import Generalist
from lib.parallel.ranks import Ranks
from lib.propagation import Propagator
from lib.recipes.choices import budget_of, trainings_of
from lib.recipes.registry import RECIPES
from lib.training.loop import shared_iterations

from .context import Context
from .grid import choose_grid
from .opening import Files
from .options import Preset
from .prepared_study import PreparedStudy
from .progress import QUESTIONS, Reporter
from .record import KEPT_ROUNDS
from .report import Case, Observer, RunRequest
from .run_folder import RunFolder

log = logging.getLogger("semisam.train")

RESERVE = 100 * 2**20
"""Bytes that stay free on the disk."""


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Args:
        budget: rounds, and how much each of them trains.
        trainings: of a round.
        unlabelled: scans without a human label.
        refines: whether predictions are refined after each round.
        questions: to foundation models in a training.
    """

    budget: Preset
    trainings: int
    unlabelled: int
    refines: bool
    questions: int = 0

    @property
    def epochs(self) -> int:
        """Epochs of a round."""
        return self.trainings * self.budget.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps of a round."""
        return self.epochs * self.budget.iterations

    def work(self, scans: int) -> Mapping[str, int]:
        """Units of work of each stage over the whole run, for so many scans in all."""
        rounds = self.budget.rounds
        return {
            "propagation": scans,
            "training": rounds * self.steps,
            QUESTIONS: rounds * self.trainings * self.questions,
            "prediction": rounds * self.unlabelled,
            "refinement": rounds * self.unlabelled * self.refines,
        }


@dataclass(frozen=True)
class Models:
    """The frozen models of a run.

    Args:
        generalist: features for matching and refinement.
        propagator: carries human labels over to other scans.
        asked: the generalists that the recipe prompts.
    """

    generalist: Generalist
    propagator: Propagator
    asked: tuple[Generalist, ...] = ()


def plan_work(request: RunRequest, cases: Sequence[Case], processes: int = 1) -> Plan:
    """The work of a run over the usable cases, shared by some processes."""
    options = request.options
    budget = budget_of(options)
    unlabelled = sum(case.label is None for case in cases)
    if not unlabelled:
        # Without pseudo-labels a second round would repeat the first.
        budget = replace(budget, rounds=1)
    if RECIPES[options.recipe].trainings == 1:  # of several trainings, each process does its own
        budget = replace(budget, iterations=shared_iterations(budget.epochs, budget.iterations, processes))
    recipe = RECIPES[options.recipe]
    questions = recipe.questions(budget.epochs * budget.iterations, math.ceil(unlabelled / processes))
    return Plan(budget, trainings_of(options), unlabelled, recipe.refines, questions)


def plan_run(
    request: RunRequest, files: Files, folder: RunFolder, models: Models, observer: Observer
) -> tuple[Context, Plan]:
    """Choose the working grid and put the run together.

    Raises:
        UserError: (422, 409) when no grid fits the scans, (507) when there is no space for what the run writes.
    """
    ranks, cases = folder.ranks, files.usable
    spec, voxels = ranks.once(
        lambda: choose_grid(cases, request.schema, request.options, request.settings, folder.prepared)
    )
    ranks.once(lambda: check_space(folder.path.parent, bytes_needed(voxels, spec.channels, len(cases))))
    plan = plan_work(request, cases, ranks.world)
    run = Context(
        study=PreparedStudy(cases, request.schema, spec, folder.prepared),
        options=replace(request.options, device=ranks.device(request.options.device)),
        budget=plan.budget,
        generalist=models.generalist,
        propagator=models.propagator,
        folder=folder,
        reporter=Reporter(observer, plan.budget.rounds, plan.epochs, plan.work(len(cases))),
        observer=observer,
        asked=models.asked,
        skipped=dict(files.skipped),
        ranks=ranks,
    )
    _log(run, plan, ranks)
    return run, plan


def bytes_needed(voxels: int, channels: int, scans: int) -> int:
    """A cautious guess at what a run writes: images of two bytes a voxel, and the soft labels of three rounds.

    Two rounds are kept while a third one is made. Soft labels and their confidence have two bytes a voxel; they are
    mostly 0 or 1, and pack to less than half of that.
    """
    return RESERVE + scans * voxels * (2 + (1 + KEPT_ROUNDS) * (channels + 1))


def _log(run: Context, plan: Plan, ranks: Ranks) -> None:
    options, spec = run.options, run.study.spec
    log.info(
        "%s, preset %s: %d scans with and %d without a human label, %d rounds of %d epochs in all; "
        "spacing %s mm, window %s, on %s%s",
        options.recipe,
        options.preset,
        len(run.study.cases) - plan.unlabelled,
        plan.unlabelled,
        plan.budget.rounds,
        plan.epochs,
        " x ".join(f"{s:g}" for s in spec.spacing),
        " x ".join(str(n) for n in spec.roi_size),
        options.device,
        f", {ranks.world} processes" if ranks.world > 1 else "",
    )
