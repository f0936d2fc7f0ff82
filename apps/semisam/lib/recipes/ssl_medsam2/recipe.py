"""SSL-MedSAM2 as an algorithm; the package says what deviates from the paper.

::

    Algorithm 1
    Y_u <- pseudo-labels by the propagator (Algorithm 2: ``video``)                  engine/round_zero.py
    for each round:
        split the unlabelled scans into five folds                                   folds.choose_folds
        for each fold: train on human labels and Y_u of the other folds              train_fold
        Y_u <- each scan's prediction by the network that has not seen it            out_of_fold
    return the mean of the five networks                                             publish

Who trains is a ``BackEnd``: the networks and the training of all recipes, or nnU-Net (``nnunet_folds``). Several
processes share the trainings of a round, each of them whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from lib.core.errors import UserError
from lib.core.json_files import write_json
from lib.parallel.ranks import Ranks
from lib.recipes.engine.context import Context
from lib.recipes.engine.kept_training import TrainingNumber
from lib.recipes.engine.label_facts import PseudoLabelFacts
from lib.recipes.engine.labelling import label_study
from lib.recipes.engine.options import NNUNET, RecipeOptions
from lib.recipes.engine.recipe import ALL_NETWORKS, ALL_REGULARISERS, Recipe, default_first
from lib.recipes.engine.report import FinishedRound
from lib.recipes.engine.round_zero import propagate_study
from lib.recipes.engine.stages import TrainingParts, plan_of, train_round
from lib.specialists.checkpoint import Specialist, load_specialist, save_specialist
from lib.training.objectives import LabelObjective

from .folds import Fold, FoldSource, choose_folds
from .nnunet_folds import NnunetBackEnd, check_nnunet

log = logging.getLogger("semisam.train")

FOLDS = 5


class BackEnd(Protocol):
    """What trains the networks of a fold and predicts with them."""

    def templates(self, run: Context) -> Sequence[str]:
        """Names of the scans whose human label it learns from."""
        ...

    def train(self, run: Context, index: int, fold: Fold, folds: int) -> Specialist:
        """Train on all scans but those of ``fold``, one of ``folds`` in the round ``index``."""
        ...

    def label(
        self, run: Context, index: int, specialist_of: Callable[[str], Specialist]
    ) -> Mapping[str, PseudoLabelFacts]:
        """Predict every scan without a human label; see ``labelling.label_study``."""
        ...


class OwnBackEnd:
    """The networks and the training that all recipes share, without a semi-supervised loss unless one is chosen."""

    def templates(self, run: Context) -> Sequence[str]:
        """Names of all scans with a human label."""
        return run.study.human()

    def train(self, run: Context, index: int, fold: Fold, folds: int) -> Specialist:
        """Train by ``train_round`` on all scans but those of ``fold``."""
        plan = replace(plan_of(run), objective=LabelObjective(pseudo_ramp=0.0))
        parts = TrainingParts(source=FoldSource(run.study, fold))
        trained = train_round(run, TrainingNumber(index, fold.number, folds), plan, parts, ranks=Ranks())
        return Specialist(run.study.spec, tuple(trained.members))

    def label(
        self, run: Context, index: int, specialist_of: Callable[[str], Specialist]
    ) -> Mapping[str, PseudoLabelFacts]:
        """Predict every scan without a human label; see ``labelling.label_study``."""
        return label_study(run, index, lambda name: specialist_of(name).members)


def check_ssl_medsam2(options: RecipeOptions) -> None:
    """Raise UserError when nnU-Net is chosen and cannot be used as chosen."""
    if options.network == NNUNET:
        check_nnunet(options)


def versions_of_ssl_medsam2(options: RecipeOptions) -> dict[str, str]:
    """nnU-Net's version where it trains."""
    return {NNUNET: version(NNUNET)} if options.network == NNUNET else {}


def run_ssl_medsam2(
    run: Context, finished: FinishedRound | None, *, folds: int = FOLDS, nnunet: NnunetBackEnd | None = None
) -> FinishedRound:
    """Run all rounds after ``finished`` (None: from the propagation on), and return the last one.

    Args:
        run: the run.
        finished: the last finished round.
        folds: trainings of a round.
        nnunet: how nnU-Net trains, where it was chosen.
    """
    check_ssl_medsam2(run.options)
    back_end: BackEnd = (nnunet or NnunetBackEnd()) if run.options.network == NNUNET else OwnBackEnd()
    if finished is None:
        finished = propagate_study(run)
    parts = choose_folds(run.study.unlabelled(), folds, run.options.seed)
    for index in range(finished.index + 1, run.budget.rounds + 1):
        run.folder.open_round(index)
        files = train_folds(run, back_end, index, parts)
        trained = [load_specialist(file, run.options.device) for file in files]
        labels = back_end.label(run, index, out_of_fold(parts, trained))
        finished = publish(run, index, labels, trained)
    return finished


def train_folds(run: Context, back_end: BackEnd, index: int, folds: Sequence[Fold]) -> list[Path]:
    """Train all folds of a round, each process its share; see ``train_fold``."""
    by_name = {str(fold.number): fold for fold in folds}
    files = run.ranks.each(list(by_name), lambda name: train_fold(run, back_end, index, by_name[name], len(folds)))
    if run.ranks.first:
        run.collect_history(index)
        others, epochs = len(folds) - len(run.ranks.share(folds)), run.budget.epochs
        run.reporter.skip("training", others * epochs * run.budget.iterations, index * len(folds) * epochs)
    return list(files.values())


def train_fold(run: Context, back_end: BackEnd, index: int, fold: Fold, folds: int) -> Path:
    """Train the networks of a fold and write them to a file in the round's folder, unless a killed run has done so."""
    file = run.folder.open_round(index) / f"fold-{fold.number}.pt"
    cases = {
        "held_out": list(fold.held_out),
        "human": list(back_end.templates(run)),
        "pseudo": list(FoldSource(run.study, fold).pseudo()),
    }
    if _holds(file, cases):
        epochs = run.budget.epochs
        done = ((index - 1) * folds + fold.number + 1) * epochs
        run.reporter.skip("training", epochs * run.budget.iterations, done)
    else:
        log.info("round %d, fold %d of %d: %d scans held out", index, fold.number + 1, folds, len(fold.held_out))
        trained = back_end.train(run, index, fold, folds)
        save_specialist(file, trained.spec, trained.members, cases, trained.nnunet)
    return file


def _holds(file: Path, cases: dict[str, list[str]]) -> bool:
    """Whether a file holds networks that were trained on these cases."""
    if not file.is_file():
        return False
    try:
        return load_specialist(file).notes == cases
    except UserError as error:
        log.warning("%s will be made again: %s", file.name, error)
        return False


def out_of_fold(folds: list[Fold], trained: list[Specialist]) -> Callable[[str], Specialist]:
    """Gives, for the name of a scan, the mean of the networks that have not seen it."""
    return lambda name: joined([each for fold, each in zip(folds, trained, strict=True) if name in fold.held_out])


def joined(parts: list[Specialist]) -> Specialist:
    """One specialist with the networks of several."""
    return replace(parts[0], members=tuple(member for part in parts for member in part.members))


def publish(
    run: Context, index: int, labels: Mapping[str, PseudoLabelFacts], trained: list[Specialist]
) -> FinishedRound:
    """Complete the round with the mean of all networks as its specialist, and note who has learned from what."""
    part = run.folder.open_round(index)
    whole = joined(trained)
    notes = {"recipe": run.options.recipe, "round": index, "seed": run.options.seed, "folds": len(trained)}
    if run.ranks.first:
        save_specialist(part / "specialist.pt", whole.spec, whole.members, notes, whole.nnunet)
        write_json(part / "folds.json", {"folds": [dict(each.notes) for each in trained]})
        NnunetBackEnd.tidy(part)
    return run.end_round(index, labels, None)


RECIPE = Recipe(
    run_ssl_medsam2,
    networks=(*default_first("dynunet", ALL_NETWORKS), NNUNET),
    regularisers=default_first("supervised", ALL_REGULARISERS),
    trainings=FOLDS,
    check=check_ssl_medsam2,
    versions=versions_of_ssl_medsam2,
)
