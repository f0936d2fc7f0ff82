"""Whole trainings of ``semisam_plus`` on a study with one outlined scan, scored on scans that are no part of it."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import common
import published_weights
from common import Store
from lib.formats.volumes import read_volume
from lib.generalists import Generalist
from lib.recipes import Case, FinishedRound, RecipeOptions, RecipeSettings, RunRequest, SilentObserver, run_recipe
from lib.recipes.engine.context import Context
from lib.recipes.engine.recipe import Recipe
from lib.recipes.registry import RECIPES
from lib.recipes.semisam_plus.recipe import run_semisam_plus
from lib.specialists import load_specialist
from lib.specialists.predict import predict_prepared
from lib.specialists.predict_in_roi import predict_in_roi
from propagated_once import KeptPropagator
from study_sets import StudySet

STEPS_OF_AN_EPOCH = 20
Rounds = Callable[[Context, "FinishedRound | None"], FinishedRound]
After = Callable[[Context, Mapping[str, Tensor]], None]


@dataclass(frozen=True)
class Budget:
    """Of one training.

    Args:
        steps: of its one round; 0 for the preset's.
        seed: of all random numbers.
    """

    steps: int
    seed: int


def run_instead(study: StudySet, rounds: Rounds, features: Generalist, *, seed: int, steps: int = 0) -> None:
    """Run other rounds in the place of those of ``semisam_plus``, on a study's scans.

    Args:
        study: the first scan is outlined.
        rounds: run the rounds.
        features: carries labels over.
        seed: of the run.
        steps: of a training, 0 for as many as the preset has.
    """
    kept = RECIPES["semisam_plus"]
    RECIPES["semisam_plus"] = Recipe(rounds)  # type: ignore[index]
    first = study.scans[0]
    cases = [Case(name, study.image(name), study.label(name) if name == first else None) for name in study.scans]
    epochs = max(1, steps // STEPS_OF_AN_EPOCH) if steps else None
    options = RecipeOptions(recipe="semisam_plus", seed=seed, max_epochs=epochs)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run_recipe(
                RunRequest(cases, study.schema, options, RecipeSettings(), Path(folder)),
                generalist=features,
                propagator=KeptPropagator(common.RESULTS / "recipes_real_weights"),
                observer=SilentObserver(),
            )
    except RuntimeError as error:
        if "must end with a round that has a checkpoint" not in str(error):
            raise  # nothing is trained where only the propagation is looked at
    finally:
        RECIPES["semisam_plus"] = kept  # type: ignore[index]


def trained(
    study: StudySet, model: str, done: dict[str, list[float]], store: Store, budget: Budget, after: After | None = None
) -> None:
    """Train once and score the held-out scans.

    Args:
        study: what is trained on, and what is held out.
        model: asked by ``semisam_plus``; or ``features+asked`` for one that carries labels over and another that is
            asked. By default, the asked one carries labels over on pictures, and ``mind`` on volumes.
        done: Dice of each structure and processor seconds of the whole training, by held-out scan.
        store: to save it.
        budget: of the training.
        after: what is done with the labels of the study's scans ``[1 + N, D, H, W]``: the outline of the first, and
            what the trained network says of the others.
    """
    if set(study.held_out) <= set(done):
        return
    features, _, asked = model.rpartition("+")
    flat = read_volume(study.image(study.scans[0])).flat
    generalist = published_weights.generalist(asked)
    carries = published_weights.generalist(features or (asked if flat else "mind"))

    def rounds(run: Context, finished: FinishedRound | None) -> FinishedRound:
        last = run_semisam_plus(run, finished, [generalist])
        assert last.checkpoint is not None
        seconds = round(time.process_time() - begun, 1)
        specialist = load_specialist(last.checkpoint, "cpu")
        template = run.study.template(study.scans[0])
        for scan in study.held_out:
            found = predict_in_roi(specialist, read_volume(study.image(scan)), lambda: template).labels()
            done[scan] = [*study.dice(scan, found), seconds]
        for scan in study.scans[1:]:
            image = run.study.prepared(scan).image.float()
            said = predict_prepared(specialist.members, run.study.spec, image)
            done[scan] = [*study.dice(scan, run.study.prepared(scan).frame.labels_back(said)), seconds]
        own = statistics.fmean(value for scan in study.scans[1:] for value in done[scan][:-1])
        print(f"{study.name}, semisam_plus with {model}, seed {budget.seed}, its own scans: {own:.4f}", flush=True)
        mean = statistics.fmean(value for scan in study.held_out for value in done[scan][:-1])
        print(f"{study.name}, semisam_plus with {model}, seed {budget.seed}: {mean:.4f}, {seconds} s", flush=True)
        if after is not None:
            labels = {study.scans[0]: run.study.target(study.scans[0]).probabilities.float()}
            for scan in study.scans[1:]:
                image = run.study.prepared(scan).image.float()
                labels[scan] = predict_prepared(specialist.members, run.study.spec, image)
            after(run, labels)
        store.save()
        return last

    begun = time.process_time()
    run_instead(study, rounds, carries, seed=budget.seed, steps=budget.steps)
