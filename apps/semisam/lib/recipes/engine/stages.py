"""Stages of a round that recipes have in common: training, prediction, and what is said of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean as mean

import numpy as np
import torch
from torch import Tensor, nn

from lib.core.uncertainty import normalised_entropy, uncertainty_facts
from lib.parallel.ranks import Ranks
from lib.report.history import Entry
from lib.specialists.checkpoint import load_specialist
from lib.specialists.networks import SpecialistNetwork
from lib.specialists.predict import predict_prepared
from lib.specialists.regularisers import Regulariser, build_regulariser
from lib.training.agreement import agreement
from lib.training.assistance import Assistant
from lib.training.loop import StepListener, Trained, Trainer, TrainingPlan
from lib.training.sampling import SampleSource

from .context import Context
from .each_scan import some_scans
from .kept_training import KeptTraining
from .learned import missing_in
from .report import FinishedRound

log = logging.getLogger("semisam.train")

SETTLED = 0.985
"""Mean Dice between the pseudo-labels of two rounds from which on a further round is not worth its time."""

EARLIER = 1 / 3
"""Share of the round before in a round's pseudo-labels, see ``with_earlier``."""

MOST_TRAININGS = 3
"""Trainings of a specialist that does not find one of its structures, each from other random weights."""
ENOUGH_STEPS = 100
"""Steps after which a structure that is not found at all will not be found; before, it may just be too early."""


def counter(run: Context, stage: str, names: Sequence[str]) -> Callable[[dict[str, float]], None]:
    """Tells the reporter, for each scan this process has done, what all have done by then, if they are as fast."""
    left, world = len(names), run.ranks.world

    def count(metrics: dict[str, float]) -> None:
        nonlocal left
        units = min(world, left)
        left -= units
        run.reporter.advance(stage, metrics, units=units)

    return count


def plan_of(run: Context) -> TrainingPlan:
    """How each round trains, as far as the preset says."""
    amount = run.amount
    return TrainingPlan(epochs=amount.epochs, iterations=amount.iterations, batch=amount.batch)


def release_generalist(run: Context) -> None:
    """Free the generalist's memory for the specialist; it is loaded again when it is needed again."""
    release = getattr(run.generalist, "release", None)
    if release is not None:
        release()


def train_round(
    run: Context,
    index: int,
    plan: TrainingPlan,
    *,
    source: SampleSource | None = None,
    assistant: Assistant | None = None,
    regulariser: Regulariser | None = None,
    training: int = 0,
    trainings: int = 1,
    ranks: Ranks | None = None,
) -> Trained:
    """Train a specialist from scratch on the human labels and the current pseudo-labels.

    One that does not find a structure at all would wipe it out of the whole study's labels. It is trained again.

    Args:
        run: the run.
        index: of the round.
        plan: how to train.
        source: the scans, None for the whole study.
        assistant: generalists that help meanwhile.
        regulariser: a fresh one, None for the one that the options name.
        training: number of this training in the round, from 0.
        trainings: trainings in a round.
        ranks: who shares its work, None for all processes of the run; then a training that has ended is kept in the
            round's folder, and is not repeated when the run is killed before the round has ended.
    """
    run.reporter.begin("training", index)
    kept = None if ranks is not None else KeptTraining(run, index, plan, training, trainings)
    known = kept.take_up() if kept else None
    if known is not None:
        return known
    if assistant is None:
        release_generalist(run)
    done = run.reporter.done("training")
    for attempt in range(1, MOST_TRAININGS + 1):
        trainer = Trainer(
            run.study.spec,
            source or run.study,
            regulariser or build_regulariser(run.options.regulariser, plan.steps),
            plan,
            run.options.device,
            assistant,
            ranks or run.ranks,
        )
        trained = trainer.train(
            run.options.seed * 1009 + index + training * 101 + (attempt - 1) * 10_007,
            follow(run, index, plan, training, trainings, together=ranks is None),
        )
        if not trained.missed or plan.steps < ENOUGH_STEPS:
            break
        missed = ", ".join(run.schema.names[value - 1] for value in trained.missed)
        again = "it is trained again" if attempt < MOST_TRAININGS else "look at the labels, or try another seed"
        log.warning("the specialist of round %d finds nothing of %s: %s", index, missed, again)
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
    count = run.amount.networks
    trained = [train_round(run, index, plan, assistant=assistant, training=n, trainings=count) for n in range(count)]
    return [member for alike in zip(*(each.members for each in trained), strict=True) for member in alike]


def follow(
    run: Context,
    index: int,
    plan: TrainingPlan,
    training: int = 0,
    trainings: int = 1,
    *,
    together: bool = True,
) -> StepListener:
    """A listener that tells the run about the steps of a training.

    Args:
        run: the run.
        index: of the round.
        plan: how it trains.
        training: number of the training in the round, from 0.
        trainings: trainings in a round.
        together: whether all processes train it together; then it is the first one's to note.
    """
    before = ((index - 1) * trainings + training) * plan.epochs
    noted = run.ranks.first or not together
    if noted:
        run.history.forget(index, training)
    epoch: list[dict[str, float]] = []

    def listen(step: int, metrics: dict[str, float]) -> None:
        epoch.append(metrics)
        end = step % plan.iterations == 0
        if end:
            names = sorted({name for each in epoch for name in each})
            means = {name: mean([each[name] for each in epoch if name in each]) for name in names}
            if noted:
                run.history.add(Entry(index, training, step // plan.iterations, means))
            run.reporter.finished_epochs(before + step // plan.iterations)
            if "agreement" in means:
                run.reporter.best(means["agreement"])
            epoch.clear()
        run.reporter.advance("training", metrics, force=end)

    return listen


def label_study(
    run: Context, index: int, members_of: Callable[[str], Sequence[nn.Module]]
) -> dict[str, dict[str, object]]:
    """Predict every scan without a human label and write its pseudo-label, unrefined.

    Args:
        run: the run.
        index: of the round; its folder must have been begun.
        members_of: gives the networks whose probabilities are averaged for the scan of that name.

    Returns:
        The params of every pseudo-label.
    """

    def predict(name: str) -> tuple[Tensor, np.ndarray]:
        prepared = run.study.prepared(name)
        probabilities = predict_prepared(members_of(name), run.study.spec, prepared.image.float())
        return probabilities, prepared.frame.labels_back(probabilities)

    return label_by(run, index, predict)


def label_by(
    run: Context, index: int, predict: Callable[[str], tuple[Tensor, np.ndarray]]
) -> dict[str, dict[str, object]]:
    """The same with a prediction of one's own.

    Args:
        run: the run.
        index: of the round; its folder must have been begun.
        predict: gives, for a scan's name, probabilities ``[1 + N, D, H, W]`` on its working grid and its label map on
            its own grid.
    """
    part = run.folder.begin_round(index, keep=True)
    run.reporter.begin("prediction", index)
    names = run.study.unlabelled()
    count = counter(run, "prediction", names)

    def keep(name: str) -> tuple[dict[str, object], float]:
        probabilities, label = predict(name)
        uncertainty = normalised_entropy(probabilities)
        run.study.write_target(part, name, probabilities, 1.0 - uncertainty)
        facts = uncertainty_facts(probabilities, uncertainty) | change_of(run, name, probabilities)
        facts |= {"templates": templates_of(run, index, name), "round": index, "source": "specialist"}
        facts |= missing_in(run.study, label)
        params = run.keep_label(part, name, label, run.study.prepared(name).affine, facts)
        return params, float(uncertainty.mean())

    def done(result: tuple[dict[str, object], float] | None) -> None:
        count({} if result is None else {"uncertainty": result[1]})

    params = {name: found for name, (found, _) in some_scans(run, names, keep, done).items()}
    report_change(run, params.values())
    return params


def settled(finished: FinishedRound) -> bool:
    """Whether the pseudo-labels of a round are those of the round before, but for a little."""
    params = [label.params for label in finished.pseudo_labels.values()]
    found = [float(str(each["agreement"])) for each in params if "agreement" in each]
    if not found or mean(found) < SETTLED:
        return False
    log.info("the pseudo-labels agree to %.3f with those of the round before: no further round is needed", mean(found))
    return True


def report_change(run: Context, params: Iterable[Mapping[str, object]]) -> None:
    """Report the mean agreement with the round before, as far as it is among the facts about labels."""
    agreements = [float(str(each["agreement"])) for each in params if "agreement" in each]
    if agreements:
        run.reporter.best(sum(agreements) / len(agreements))


def change_of(run: Context, name: str, probabilities: Tensor) -> dict[str, object]:
    """How well a new label agrees with the one of the round before (mean Dice of the structures), if there is one."""
    before = run.study.current(name)
    if before is None:
        return {}
    return {"agreement": round(agreement(probabilities[None], before.probabilities.float()[None]), 4)}


def with_earlier(run: Context, name: str, probabilities: Tensor) -> Tensor:
    """A new label ``[1 + N, D, H, W]`` averaged with the one of the round before, if there is one.

    Temporal ensembling (Laine and Aila, https://arxiv.org/abs/1610.02242). The specialist's errors are others than
    those of the propagation: both together are better than either, and where they differ the label becomes unsure.
    """
    before = run.study.current(name)
    return probabilities if before is None else torch.lerp(probabilities, before.probabilities.float(), EARLIER)


def with_earlier_members(run: Context, index: int, members: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """The networks to publish after a round: its best ones and those of the rounds before.

    A training from scratch may turn out worse than the one before, which nobody can see without the truth; together
    they are as good as the better one. Left atrium, 24 unlabelled scans after three rounds: Dice 0.880 by the last
    round's networks, 0.883 by the three teachers (standard error of the difference 0.001).

    Args:
        run: the run.
        index: of the round.
        members: of the round, as ``train_networks`` gives them.
    """
    if index == 1:
        return members
    earlier = load_specialist(run.folder.round(index - 1) / "specialist.pt", run.options.device)
    count = run.amount.networks
    return [*members[:count], *earlier.members[: (index - 1) * count]]


def templates_of(run: Context, index: int, name: str) -> object:
    """Names of the outlined scans that the label of a round goes back to."""
    earlier = run.kept_params(run.folder.round(index - 1), name) or {}
    return earlier.get("templates", list(run.study.human()))
