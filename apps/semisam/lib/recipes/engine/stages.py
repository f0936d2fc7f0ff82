"""Training the networks of a round, as all recipes do that train by ``lib.training``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean as mean

from lib.parallel.ranks import Ranks
from lib.report.history import Entry
from lib.specialists.networks import SpecialistNetwork
from lib.specialists.regularisers import Regulariser, build_regulariser
from lib.training.assistance import Assistant
from lib.training.loop import StepListener, Trained, Trainer, TrainingPlan
from lib.training.sampling import SampleSource

from .context import Context
from .kept_training import KeptTraining, TrainingNumber

log = logging.getLogger("semisam.train")

MOST_TRAININGS = 3
"""Trainings of a specialist that does not find one of its structures, each from other random weights."""
ENOUGH_STEPS = 100
"""Steps after which a structure that is not found at all will not be found; before, it may just be too early."""


def plan_of(run: Context) -> TrainingPlan:
    """How each round trains, as far as the preset says."""
    budget = run.budget
    return TrainingPlan(epochs=budget.epochs, iterations=budget.iterations, batch=budget.batch)


def release_generalist(run: Context) -> None:
    """Free the generalists' memory for the specialist; they are loaded again when they are needed again."""
    for generalist in run.generalists:
        release = getattr(generalist, "release", None)
        if release is not None:
            release()


@dataclass(frozen=True)
class TrainingParts:
    """What a recipe brings to a training besides the plan.

    Args:
        source: the scans, None for the whole study.
        assistant: generalists that help meanwhile.
        regulariser: a fresh one, None for the one that the options name.
    """

    source: SampleSource | None = None
    assistant: Assistant | None = None
    regulariser: Regulariser | None = None


def train_round(
    run: Context,
    number: TrainingNumber,
    plan: TrainingPlan,
    parts: TrainingParts | None = None,
    *,
    ranks: Ranks | None = None,
) -> Trained:
    """Train a specialist from scratch on the human labels and the current pseudo-labels.

    One that does not find a structure at all would wipe it out of the whole study's labels. It is trained again.

    Args:
        run: the run.
        number: which training of the run it is.
        plan: how to train.
        parts: scans, assistant and regulariser.
        ranks: who shares its work, None for all processes of the run; then a training that has ended is kept in the
            round's folder, and is not repeated when the run is killed before the round has ended.
    """
    run.reporter.begin("training", number.round)
    parts = parts or TrainingParts()
    kept = None if ranks is not None else KeptTraining(run, number, plan)
    known = kept.take_up() if kept else None
    if known is not None:
        return known
    if parts.assistant is None:
        release_generalist(run)
    done = run.reporter.done("training")
    for attempt in range(1, MOST_TRAININGS + 1):
        trainer = Trainer(
            run.study.spec,
            parts.source or run.study,
            parts.regulariser or build_regulariser(run.options.regulariser, plan.steps),
            plan,
            run.options.device,
            parts.assistant,
            ranks or run.ranks,
        )
        trained = trainer.train(
            number.seed(run.options.seed) + (attempt - 1) * 10_007,
            follow(run, number, plan, together=ranks is None),
        )
        if not trained.missed or plan.steps < ENOUGH_STEPS:
            break
        missed = ", ".join(run.schema.names[value - 1] for value in trained.missed)
        again = "it is trained again" if attempt < MOST_TRAININGS else "look at the labels, or try another seed"
        log.warning("the specialist of round %d finds nothing of %s: %s", number.round, missed, again)
        if attempt < MOST_TRAININGS:
            run.reporter.back("training", done)
    if kept is not None:
        kept.keep(trained)
    return trained


def train_networks(
    run: Context, index: int, plan: TrainingPlan, assistant: Assistant | None = None
) -> Sequence[SpecialistNetwork]:
    """Train the networks of a round, as many as the preset has, by ``train_round``.

    Returns:
        All to predict with: first the best one of each training, then the second best, and so on.
    """
    count = run.budget.networks
    parts = TrainingParts(assistant=assistant)
    trained = [train_round(run, TrainingNumber(index, number, count), plan, parts) for number in range(count)]
    return [member for members in zip(*(each.members for each in trained), strict=True) for member in members]


def follow(run: Context, number: TrainingNumber, plan: TrainingPlan, *, together: bool = True) -> StepListener:
    """A listener that tells the run about the steps of a training.

    Args:
        run: the run.
        number: which training of the run it is.
        plan: how it trains.
        together: whether all processes train it together; then it is the first one's to note.
    """
    before = number.before * plan.epochs
    noted = run.ranks.first or not together
    if noted:
        run.history.forget(number.round, number.number)
    epoch: list[dict[str, float]] = []

    def listen(step: int, metrics: dict[str, float]) -> None:
        epoch.append(metrics)
        end = step % plan.iterations == 0
        if end:
            names = sorted({name for each in epoch for name in each})
            means = {name: mean([each[name] for each in epoch if name in each]) for name in names}
            if noted:
                run.history.add(Entry(number.round, number.number, step // plan.iterations, means))
            run.reporter.finished_epochs(before + step // plan.iterations)
            if step == plan.steps:
                run.reporter.settle((before + plan.epochs) / run.reporter.total_epochs)
            if "agreement" in means:
                run.reporter.best(means["agreement"])
            epoch.clear()
        run.reporter.advance("training", metrics, force=end)

    return listen
