"""Foundation models with published weights in the recipes' steps, against ``mind``: which features carry labels over
better, and whether labels that were carried over get better by asking about them, as ``semisam_plus`` does.

Nothing is trained. Stages:

- ``features``: the propagator ``registration`` carries the outline of one scan over by a model's features (stage 1 of
  ``semisam_o1``).
- ``answers``: the propagated labels (always by ``mind``) become prompts; where the answers agree, they take the label's
  place: what ``semisam_plus`` draws its student to in its first questions.
- ``refinement``: the propagated labels (by ``mind``) are taken for predictions, and their unsure voxels are corrected
  from similar places of the other scans by a model's features, as ``semisam_o1`` does. ``none`` is without.

The working grid is the one that the recipe chooses with the preset ``quick``. What an interrupted run has measured is
not measured again. Needs the scans in ``../shared/data`` (or ``$SEMISAM_DATA``), and the weights in
``~/.cache/semisam/weights`` (or ``$SEMISAM_WEIGHTS_CACHE``).

    python benchmarks/bench_recipes_real_weights.py --data jsrt,mscmr --models mobile_sam,lite_medsam --scans 6
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import common
import published_weights
from common import Store, heading, table
from lib.core.labels import LabelSchema
from lib.core.metrics import overlap
from lib.core.uncertainty import normalised_entropy
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.generalists.mind import Mind
from lib.propagation import Template, create_propagator, propagate_from
from lib.recipes import (
    Case,
    FinishedRound,
    RecipeOptions,
    RecipeSettings,
    RunRequest,
    SilentObserver,
    run_recipe,
)
from lib.recipes.engine.context import Context
from lib.recipes.engine.recipe import Recipe
from lib.recipes.engine.round_zero import propagate_study
from lib.recipes.registry import RECIPES
from lib.recipes.semisam_o1.evidence import RoundEvidence
from lib.recipes.semisam_o1.refinement import Evidence, RefinementOptions, refine, usual_distance
from lib.recipes.semisam_plus.assistant import CollaborationOptions
from lib.recipes.semisam_plus.consensus import confident
from lib.recipes.semisam_plus.recipe import assistant_of
from propagated_once import KeptPropagator

STRUCTURES = {
    "jsrt": ("right_lung", "left_lung", "heart"),
    "mscmr": ("myocardium", "left_ventricle", "right_ventricle"),
    "hippocampus": ("anterior", "posterior"),
    "la": ("left_atrium",),
}
STAGES = ("features", "answers", "refinement")
Step = Callable[[Context], None]


@dataclass(frozen=True)
class StudySet:
    """Scans of one kind, of which the first is outlined.

    Args:
        name: of the folder.
        folder: where it lies.
        labels: folder of the labels, with values 1..N.
        scans: names; the first is the template.
    """

    name: str
    folder: Path
    labels: Path
    scans: Sequence[str]

    def image(self, scan: str) -> Path:
        return next((self.folder / "images").glob(f"{scan}.*"))

    def label(self, scan: str) -> Path:
        return next(self.labels.glob(f"{scan}.*"))

    def truth(self, scan: str) -> np.ndarray:
        return read_label(self.label(scan), read_volume(self.image(scan)), LabelSchema(STRUCTURES[self.name]))


def open_set(name: str, count: int, scratch: Path) -> StudySet | None:
    """The first scan as template, and ``count`` others spread over the rest; None when the scans are not there."""
    folder = Path(os.environ.get("SEMISAM_DATA") or common.ROOT.parent / "shared" / "data") / name
    if not (folder / "images").is_dir():
        print(f"Skipped: the {name} scans are not there ({folder}). Set SEMISAM_DATA to the folder that holds {name}/.")
        return None
    if (folder / "split.json").is_file():
        names = list(json.loads((folder / "split.json").read_text(encoding="utf-8"))["train"])
    else:
        names = sorted(path.name.split(".")[0] for path in (folder / "images").iterdir())
    others = names[1:]
    chosen = [others[round(at)] for at in np.linspace(0, len(others) - 1, min(count, len(others)))]
    labels = folder / "labels"
    if name == "jsrt":
        labels = scratch / name
        labels.mkdir()
        for scan in [names[0], *chosen]:
            with Image.open(folder / "labels" / f"{scan}.png") as label:
                values = np.asarray(label.convert("L"))
            Image.fromarray((values // 50 - 2).clip(0) * (values >= 150)).save(labels / f"{scan}.png")
    return StudySet(name, folder, labels, [names[0], *chosen])


def dice(found: np.ndarray, truth: np.ndarray, structures: int) -> list[float]:
    return [round(overlap(found == value, truth == value)[0], 4) for value in range(1, structures + 1)]


def carried_over(study: StudySet, model: str, done: dict[str, list[float]], save: Callable[[], None]) -> None:
    """Dice of labels that are carried over by a model's features."""
    generalist = Mind() if model == "mind" else published_weights.generalist(model)
    schema = LabelSchema(STRUCTURES[study.name])
    first = study.scans[0]
    scan = read_volume(study.image(first))
    template = Template(first, scan, read_label(study.label(first), scan, schema))
    propagator = create_propagator("registration")
    for name in study.scans[1:]:
        if name not in done:
            begun = time.process_time()
            target = read_volume(study.image(name))
            soft = propagate_from([template], target, schema.channels, generalist=generalist, propagator=propagator)
            found = dice(soft.labels(), study.truth(name), len(schema.names))
            done[name] = [*found, round(time.process_time() - begun, 1)]
            print(f"{study.name}, features of {model}, {name}: {done[name]}", flush=True)
            save()


def answered(study: StudySet, model: str, done: dict[str, list[float]], save: Callable[[], None], seed: int) -> None:
    """Dice of propagated labels after the answers of a model have been joined to them."""
    if set(study.scans[1:]) <= set(done):
        return
    if model == "none":
        refined(study, model, done, save, seed)
        return
    generalist = Mind() if model == "mind" else published_weights.generalist(model)
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
                found = dice(run.study.prepared(name).frame.labels_back(joined), study.truth(name), channels - 1)
                done[name] = [*found, round(time.process_time() - begun, 1)]
                print(f"{study.name}, answers of {model}, {name}: {done[name]}", flush=True)
                save()

    after_propagation(study, ask, seed)


def refined(study: StudySet, model: str, done: dict[str, list[float]], save: Callable[[], None], seed: int) -> None:
    """Dice of propagated labels after their unsure voxels have been corrected by a model's features."""
    if set(study.scans[1:]) <= set(done):
        return
    options = RefinementOptions()

    def correct(run: Context) -> None:
        channels = run.schema.channels
        labels = {name: run.study.target(name).probabilities.float() for name in study.scans}
        evidence: dict[str, Evidence] = {}
        begun = time.process_time()
        if model != "none":
            if model != "mind":
                run.generalist = published_weights.generalist(model)
            run.folder.new_round(1)
            kept = RoundEvidence(run, 1, options)
            random = torch.Generator().manual_seed(seed)
            for name, label in labels.items():
                human = name == study.scans[0]
                uncertainty = torch.zeros(label.shape[1:]) if human else normalised_entropy(label)
                kept.collect(name, label, uncertainty, random)
                evidence[name] = kept.load(name, wanted=True)
            usual = usual_distance(evidence.values(), random)
        seconds = (time.process_time() - begun) / len(labels)
        for name in study.scans[1:]:
            label = labels[name]
            if evidence:
                others = [evidence[other] for other in study.scans if other != name][: options.scans]
                label = refine(label, evidence[name], others, usual, options)
            found = dice(run.study.prepared(name).frame.labels_back(label), study.truth(name), channels - 1)
            done[name] = [*found, round(seconds, 1)]
            print(f"{study.name}, refined by {model}, {name}: {done[name]}", flush=True)
        save()

    after_propagation(study, correct, seed)


def after_propagation(study: StudySet, step: Step, seed: int) -> None:
    """Prepare a run of ``semisam_plus``, propagate by ``mind``, and do ``step`` in the place of the rounds."""

    def instead(run: Context, _: FinishedRound | None) -> FinishedRound:
        finished = propagate_study(run)
        step(run)
        return finished

    kept = RECIPES["semisam_plus"]
    RECIPES["semisam_plus"] = Recipe(instead)  # type: ignore[index]
    first = study.scans[0]
    cases = [Case(name, study.image(name), study.label(name) if name == first else None) for name in study.scans]
    options = RecipeOptions(recipe="semisam_plus", seed=seed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run_recipe(
                RunRequest(cases, LabelSchema(STRUCTURES[study.name]), options, RecipeSettings(), Path(folder)),
                generalist=Mind(),
                propagator=KeptPropagator(common.RESULTS / "recipes_real_weights"),
                observer=SilentObserver(),
            )
    except RuntimeError as error:
        if "must end with a round that has a checkpoint" not in str(error):
            raise  # nothing is trained here
    finally:
        RECIPES["semisam_plus"] = kept  # type: ignore[index]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="jsrt,mscmr,hippocampus", help=f"comma list of: {', '.join(STRUCTURES)}")
    parser.add_argument("--models", default="mobile_sam,lite_medsam", help="comma list, compared with mind")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma list (default: all)")
    parser.add_argument("--scans", type=int, default=6, help="beside the template (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    common.end_on_sigterm()
    stages = common.chosen(options.stages, STAGES, "--stages")
    models = ["none", "mind", *(name for name in options.models.split(",") if name)]
    store = Store(common.RESULTS / "recipes_real_weights.json")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in common.chosen(options.data, tuple(STRUCTURES), "--data"):
            study = open_set(name, options.scans, Path(scratch))
            if study is None:
                continue
            heading(f"Foundation models in the recipes, {name}", {"scans": len(study.scans) - 1, "seed": options.seed})
            for stage in stages:
                for model in models if stage != "features" else models[1:]:
                    done = store.data.setdefault(f"{stage} {name} {model} seed {options.seed}", {})
                    if stage == "features":
                        carried_over(study, model, done, store.save)
                    elif stage == "answers":
                        answered(study, model, done, store.save, options.seed)
                    else:
                        refined(study, model, done, store.save, options.seed)
                rows += [_row(store, stage, study, model, options.seed) for model in models[stage == "features" :]]
    print(table(("stage", "study", "model", "Dice", "against mind", "worst scan", "CPU s a scan"), rows))
    return 0


def _row(store: Store, stage: str, study: StudySet, model: str, seed: int) -> list[object]:
    def of(name: str) -> list[float]:
        done = store.data[f"{stage} {study.name} {name} seed {seed}"]
        return [statistics.fmean(done[scan][:-1]) for scan in study.scans[1:]]

    gains = [a - b for a, b in zip(of(model), of("mind"), strict=True)]
    seconds = [store.data[f"{stage} {study.name} {model} seed {seed}"][scan][-1] for scan in study.scans[1:]]
    dices = statistics.fmean(of(model)), f"{statistics.fmean(gains):+.4f}", f"{min(gains):+.4f}"
    return [stage, study.name, model, *dices, statistics.fmean(seconds)]


if __name__ == "__main__":
    sys.exit(main())
