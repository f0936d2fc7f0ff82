"""Foundation models with published weights in the recipes, against ``mind``: which features carry labels over better,
whether labels that were carried over get better by asking about them, and what that is worth in whole trainings.

Stages:

- ``features``: the propagator ``registration`` carries the outline of one scan over by a model's features (stage 1 of
  ``semisam_o1``). Of ``polyp_cvc``, from the first frame of an endoscopy to its middle one.
- ``answers``: the propagated labels (always by ``mind``) become prompts; where the answers agree, they take the label's
  place: what ``semisam_plus`` draws its student to in its first questions.
- ``refinement``: the propagated labels (by ``mind``) are taken for predictions, and their unsure voxels are corrected
  from similar places of the other scans by a model's features, as ``semisam_o1`` does. ``none`` is without.
- ``views``: propagated labels are asked about slice by slice, in one, two and three views, as ``fm_abs`` asks.
- ``choice``: ``fm_abs`` with a model, when scans of the highest entropy ratio are outlined, and when random ones are.
- ``trainings``: whole trainings of ``semisam_plus`` with a model in the place of ``mind``, scored on scans that are
  no part of the study (see ``recipe_trainings``); and the refinement of what those with ``mind`` predict.

The working grid is the one that the recipe chooses with the preset ``quick``. What an interrupted run has measured is
not measured again. Needs the scans in ``../shared/data`` (or ``$SEMISAM_DATA``), and the weights in
``~/.cache/semisam/weights`` (or ``$SEMISAM_WEIGHTS_CACHE``).

    python benchmarks/bench_recipes_real_weights.py --data jsrt,mscmr --models mobile_sam,lite_medsam --scans 6
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import common
import published_weights
import recipe_trainings
import scans_chosen
from common import Store, heading, table
from lib.core.uncertainty import normalised_entropy
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.generalists.mind import Mind
from lib.propagation import Template, create_propagator, propagate_from
from lib.recipes import FinishedRound
from lib.recipes.engine.context import Context
from lib.recipes.engine.round_zero import propagate_study
from lib.recipes.semisam_o1.evidence import RoundEvidence
from lib.recipes.semisam_o1.refinement import Evidence, RefinementOptions, refine, usual_distance
from lib.recipes.semisam_plus.assistant import CollaborationOptions
from lib.recipes.semisam_plus.consensus import confident
from lib.recipes.semisam_plus.recipe import assistant_of
from recipe_trainings import run_instead
from study_sets import STRUCTURES, StudySet, open_set
from views_asked import WAYS, asked_in_views, key_of

STAGES = ("features", "answers", "refinement", "views", "choice", "trainings")
Done = dict[str, list[float]]
"""By scan: Dice of each structure, and processor seconds."""


def carried_over(study: StudySet, model: str, done: Done, save: Callable[[], None]) -> None:
    """Dice of labels that are carried over by a model's features."""
    if set(study.scans[1:]) <= set(done):
        return
    generalist = published_weights.generalist(model)
    propagator = create_propagator("registration")
    for name in study.scans[1:]:
        if name not in done:
            begun = time.process_time()
            first = study.template(name)
            scan = read_volume(study.image(first))
            template = Template(first, scan, read_label(study.label(first), scan, study.schema))
            target = read_volume(study.image(name))
            soft = propagate_from(
                [template], target, study.schema.channels, generalist=generalist, propagator=propagator
            )
            done[name] = [*study.dice(name, soft.labels()), round(time.process_time() - begun, 1)]
            print(f"{study.name}, features of {model}, {name}: {done[name]}", flush=True)
            save()


def answered(study: StudySet, model: str, done: Done, save: Callable[[], None], seed: int) -> None:
    """Dice of propagated labels after the answers of a model have been joined to them."""
    if set(study.scans[1:]) <= set(done):
        return
    if model == "none":
        refined(study, model, done, save, seed)
        return
    generalist = published_weights.generalist(model)
    options = CollaborationOptions()

    def ask(run: Context) -> None:
        channels = run.schema.channels
        assistant = assistant_of(run, [generalist])
        assistant.start(lambda image: image, 100, torch.Generator().manual_seed(seed))
        for name in run.study.unlabelled():
            if name not in done:
                begun = time.process_time()
                sample = run.study.sample(name)
                maps = assistant.maps(name, sample, 0)
                sure = confident(maps[None, channels:], options.threshold)[0]
                joined = torch.lerp(sample.target.float(), maps[:channels], sure)
                found = study.dice(name, run.study.prepared(name).frame.labels_back(joined))
                done[name] = [*found, round(time.process_time() - begun, 1)]
                print(f"{study.name}, answers of {model}, {name}: {done[name]}", flush=True)
                save()

    after_propagation(study, ask, seed)


def refined(study: StudySet, model: str, done: Done, save: Callable[[], None], seed: int) -> None:
    """Dice of propagated labels after their unsure voxels have been corrected by a model's features."""
    if set(study.scans[1:]) <= set(done):
        return

    def correct(run: Context) -> None:
        labels = {name: run.study.target(name).probabilities.float() for name in study.scans}
        done.update(corrected(run, study, labels, model, seed))
        save()

    after_propagation(study, correct, seed)


def corrected(run: Context, study: StudySet, labels: Mapping[str, Tensor], model: str, seed: int) -> Done:
    """Dice of labels ``[1 + N, D, H, W]`` of a study's scans after the correction by a model's features."""
    options = RefinementOptions()
    evidence: dict[str, Evidence] = {}
    begun = time.process_time()
    if model != "none":
        run.generalist = published_weights.generalist(model)
        index = max(run.folder.finished_rounds()) + 1
        run.folder.new_round(index)
        kept = RoundEvidence(run, index, options)
        random = torch.Generator().manual_seed(seed)
        for name, label in labels.items():
            human = name == study.scans[0]
            uncertainty = torch.zeros(label.shape[1:]) if human else normalised_entropy(label)
            kept.collect(name, label, uncertainty, random)
            evidence[name] = kept.load(name, wanted=True)
        usual = usual_distance(evidence.values(), random)
    seconds = (time.process_time() - begun) / len(labels)
    done: Done = {}
    for name in study.scans[1:]:
        label = labels[name]
        if evidence:
            others = [evidence[other] for other in study.scans if other != name][: options.scans]
            label = refine(label, evidence[name], others, usual, options)
        done[name] = [*study.dice(name, run.study.prepared(name).frame.labels_back(label)), round(seconds, 1)]
        print(f"{study.name}, refined by {model}, {name}: {done[name]}", flush=True)
    return done


def after_propagation(study: StudySet, step: Callable[[Context], None], seed: int) -> None:
    """Prepare a run of ``semisam_plus``, propagate by ``mind``, and do ``step`` in the place of the rounds."""

    def instead(run: Context, _: FinishedRound | None) -> FinishedRound:
        finished = propagate_study(run)
        step(run)
        return finished

    run_instead(study, instead, Mind(), seed=seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="jsrt,mscmr,hippocampus", help=f"comma list of: {', '.join(STRUCTURES)}")
    parser.add_argument("--models", default="mobile_sam,lite_medsam", help="comma list, compared with mind")
    parser.add_argument("--stages", default=",".join(STAGES[:3]), help=f"comma list of: {', '.join(STAGES)}")
    parser.add_argument("--scans", type=int, default=6, help="beside the template (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=6, help="scans to score trainings on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of a training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    common.end_on_sigterm()
    stages = common.chosen(options.stages, STAGES, "--stages")
    models = [name for name in options.models.split(",") if name]
    store = Store(common.RESULTS / "recipes_real_weights.json")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in common.chosen(options.data, tuple(STRUCTURES), "--data"):
            study = open_set(name, options.scans, options.held_out, Path(scratch))
            if study is None:
                continue
            heading(f"Foundation models in the recipes, {name}", {"scans": len(study.scans) - 1, "seed": options.seed})
            for stage in stages:
                rows += _stage(store, stage, study, models, options)
    print(table(("stage", "study", "model", "Dice", "against mind", "worst scan", "CPU s a scan"), rows))
    return 0


def _stage(
    store: Store, stage: str, study: StudySet, models: Sequence[str], options: argparse.Namespace
) -> list[list[object]]:
    """Measure what is missing of a stage; rows of the table."""
    compared = [*(["none"] if stage in ("answers", "refinement") else []), "mind", *models]
    kept: dict[str, Done] = {}
    if stage == "views":
        return _views(store, study, models, options.seed)
    if stage == "choice":
        return _choice(store, study, models, options)
    for model in compared:
        key = f"{stage} {study.name} {model} seed {options.seed}"
        if stage == "trainings":
            key += f" steps {options.steps}"
        done = kept[model] = store.data.setdefault(key, {})
        if stage == "features":
            carried_over(study, model, done, store.save)
        elif stage == "answers":
            answered(study, model, done, store.save, options.seed)
        elif stage == "refinement":
            refined(study, model, done, store.save, options.seed)
        else:
            budget = recipe_trainings.Budget(options.steps, options.seed)
            after = partial(_predictions_refined, store, study, models, options) if model == "mind" else None
            recipe_trainings.trained(study, model, done, store, budget, after)
    scans = study.held_out if stage == "trainings" else study.scans[1:]
    rows = [[stage, study.name, model, *_compared(kept[model], kept["mind"], scans)] for model in compared]
    if stage == "trainings":
        rows += _rows_of_predictions(store, study, models, options)
    return rows


def _views(store: Store, study: StudySet, models: Sequence[str], seed: int) -> list[list[object]]:
    rows: list[list[object]] = []
    for model in ("mind", *models):
        asked_in_views(study, model, store, seed)
        carried = store.data[key_of(study, model, WAYS[0], seed)]
        for way in WAYS:
            found = _compared(store.data[key_of(study, model, way, seed)], carried, study.scans[1:])
            rows.append(["views", study.name, f"{model}, {way}", *found])
    return rows


def _choice(store: Store, study: StudySet, models: Sequence[str], options: argparse.Namespace) -> list[list[object]]:
    rows: list[list[object]] = []
    for model in models:
        key = f"choice {study.name} {model} seed {options.seed} steps {options.steps}"
        kept: dict[str, Done] = store.data.setdefault(key, {})
        scans_chosen.measure(study, model, kept, store.save, recipe_trainings.Budget(options.steps, options.seed))
        rows += scans_chosen.rows_of(study, model, kept)
    return rows


def _predictions_refined(
    store: Store,
    study: StudySet,
    models: Sequence[str],
    options: argparse.Namespace,
    run: Context,
    labels: Mapping[str, Tensor],
) -> None:
    for model in _refining(models):
        store.data[_key_of_predictions(study, model, options)] = corrected(run, study, labels, model, options.seed)


def _rows_of_predictions(
    store: Store, study: StudySet, models: Sequence[str], options: argparse.Namespace
) -> list[list[object]]:
    keys = {model: _key_of_predictions(study, model, options) for model in _refining(models)}
    if not set(keys.values()) <= set(store.data):
        return []
    kept: dict[str, Done] = {model: store.data[key] for model, key in keys.items()}
    rows = {model: _compared(each, kept["mind"], study.scans[1:]) for model, each in kept.items()}
    return [["predictions refined", study.name, model, *row] for model, row in rows.items()]


def _refining(models: Sequence[str]) -> list[str]:
    """Whose features correct predictions; a model with others that carry labels over is trained only."""
    return ["none", "mind", *(model for model in models if "+" not in model)]


def _key_of_predictions(study: StudySet, model: str, options: argparse.Namespace) -> str:
    return f"predictions {study.name} {model} seed {options.seed} steps {options.steps}"


def _compared(done: Done, usual: Done, scans: Sequence[str]) -> list[object]:
    own, others = ([statistics.fmean(each[scan][:-1]) for scan in scans] for each in (done, usual))
    gains = [a - b for a, b in zip(own, others, strict=True)]
    seconds = statistics.fmean(done[scan][-1] for scan in scans)
    return [statistics.fmean(own), f"{statistics.fmean(gains):+.4f}", f"{min(gains):+.4f}", seconds]


if __name__ == "__main__":
    sys.exit(main())
