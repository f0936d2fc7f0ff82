"""Every recipe and every regulariser with the same budget of steps, from one outlined scan.

The specialist is compared with the truth of ``val``, the pseudo-labels with that of the unlabelled scans of ``train``;
no training sees either. All runs take the same propagated labels, made once. A budget is the number of optimiser steps
of a whole run: it is shared by the recipe's rounds, and by the folds of a round where there are folds.

    python benchmarks/bench_recipes.py --data hippocampus --steps 400 --seeds 0,1

An interrupted benchmark goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
from common import DataSet, Store, heading, peak_mib, table

if TYPE_CHECKING:
    from lib.recipes import FinishedRound

os.environ.update(common.limit_threads(int(os.environ.get("OMP_NUM_THREADS", common.THREADS))))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DATA = common.STRUCTURES
BASELINES = ("propagation", "one_scan", "one_scan plain", "all_scans")
REGULARISERS = ("mean_teacher", "ua_mt", "dan", "dtc", "ac_mt", "supervised")
RUNS: dict[str, dict[str, str]] = {
    "one_scan": {"regulariser": "supervised"},
    "one_scan plain": {"regulariser": "supervised"},
    "all_scans": {"regulariser": "supervised"},
    **{f"semisam_o1 {name}": {"regulariser": name} for name in REGULARISERS},
    "semisam_plus": {"recipe": "semisam_plus"},
    "fm_abs": {"recipe": "fm_abs"},
    "ssl_medsam2": {"recipe": "ssl_medsam2"},
    "ssl_medsam2 unet3d": {"recipe": "ssl_medsam2", "network": "unet3d"},
    "sc_sam": {"recipe": "sc_sam"},
}
"""Options of the run by its name. ``one_scan`` learns from the outlined scan alone, with the product's augmentation;
``one_scan plain`` without any but the place of the window. ``all_scans`` learns from the truth of all: no run without
it can be expected to do better."""
LEAST_GAIN = 0.15
NEAR_THE_BEST = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(DATA), default="hippocampus", help="data set (default: hippocampus)")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of a run (default: 400)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of a run (default: 2)")
    parser.add_argument("--seeds", default="0,1", help="comma list (default: 0,1)")
    parser.add_argument("--runs", default="", help=f"comma list of: {', '.join(RUNS)} (default: all)")
    parser.add_argument("--scans", type=int, help="use the first so many unlabelled scans only")
    parser.add_argument("--preset", default="quick", help="widths, windows and batch (default: quick)")
    parser.add_argument("--template", help="the outlined scan (default: the first of train)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the runs")
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    parser.add_argument("--report", action="store_true", help="only print what is there")
    options = parser.parse_args()
    data = common.open_dataset(options.data, DATA[options.data])
    names = common.chosen(options.runs or ",".join(RUNS), tuple(RUNS), "--runs")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    template, unlabelled = roles(data, options.template)
    unlabelled = unlabelled[: options.scans]
    name = f"recipes-{options.preset}-{options.steps}-{options.rounds}-{options.scans or 0}"
    work = common.RESULTS / data.name / (f"{name}-{template}" if options.template else name)
    store = Store(work / "results.json")
    budget = {"steps": options.steps, "rounds": options.rounds, "preset": options.preset, "device": options.device}
    heading(f"Recipes, {data.name}", {"template": template, "unlabelled": len(unlabelled), **budget})
    if not options.report:
        bench = Bench(data, template, unlabelled, work, options)
        store.data.setdefault("propagation", None)
        for seed in seeds:  # one seed of everything first
            for name in names:
                key = f"{name} seed {seed}"
                if key not in store.data:
                    store.data[key] = bench.run(name, seed)
                    store.save()
                    print(f"{key}: {json.dumps(store.data[key])}", flush=True)
        if store.data["propagation"] is None:
            store.data["propagation"] = bench.propagation()
            store.save()
    return report(store, seeds, options.check)


def roles(data: DataSet, template: str | None) -> tuple[str, list[str]]:
    """The outlined scan and all others of ``train``.

    Raises:
        SystemExit: when there is no such scan.
    """
    train = data.split()["train"]
    chosen = template or train[0]
    if chosen not in train:
        raise SystemExit(f"--template: {chosen} is not in train of {data.name}")
    return chosen, [scan for scan in train if scan != chosen]


class Bench:
    """Runs trainings and compares them with the truth.

    Args:
        data: the scans.
        template: the outlined scan.
        unlabelled: all others of the study.
        work: where runs are kept meanwhile.
        options: of the command line.
    """

    def __init__(
        self, data: DataSet, template: str, unlabelled: Sequence[str], work: Path, options: argparse.Namespace
    ) -> None:
        from lib.core.allocator import keep_freed_memory
        from lib.core.labels import LabelSchema
        from propagated_once import KeptPropagator

        self._data, self._template, self._unlabelled = data, template, unlabelled
        self._work, self._options = work, options
        self._schema = LabelSchema(data.labels)
        self._propagator = KeptPropagator(work / "propagated")
        logging.basicConfig(level=logging.WARNING)
        keep_freed_memory()  # as every job of the server does

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """Dice of specialist and pseudo-labels, seconds and memory of one training."""
        from lib.generalists.mind import Mind
        from lib.recipes import PRESETS, Case, RecipeOptions, RecipeSettings, RunRequest, resolve, run_recipe
        from lib.recipes.choices import trainings_of

        alone = name in BASELINES
        rounds = 1 if alone else self._options.rounds
        asked = RecipeOptions(preset=self._options.preset, rounds=rounds, seed=seed, device=self._options.device)
        asked = replace(asked, **RUNS[name])  # type: ignore[arg-type]
        share = rounds * trainings_of(resolve(asked)) * PRESETS[asked.preset].iterations
        epochs = max(1, self._options.steps // share)
        asked = replace(asked, max_epochs=epochs)
        others = [] if alone else self._unlabelled
        outlined = [self._template, *(self._unlabelled if name == "all_scans" else ())]
        cases = [Case(scan, self._data.image(scan), self._data.label(scan)) for scan in outlined]
        cases += [Case(scan, self._data.image(scan)) for scan in others]
        folder = self._work / f"{name.replace(' ', '-')}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        watcher = self._watcher()
        begun = time.monotonic()
        augmentation = plain_augmentation() if name == "one_scan plain" else nullcontext()
        with augmentation:
            result = run_recipe(
                RunRequest(cases, self._schema, asked, RecipeSettings(), folder),
                generalist=Mind(),
                propagator=self._propagator,
                observer=watcher,
            )
        seconds = time.monotonic() - begun - watcher.seconds
        found = {
            "val": self._val(result.checkpoint),
            "val_rounds": watcher.found,
            "rounds": self._rounds(result.folder, others),
            "seconds": round(seconds, 1),
            "peak_mib": round(peak_mib(), 0),
            "epochs": epochs,
        }
        found |= self._logged(result.folder)
        if result.report is not None:
            shutil.copyfile(result.report, self._work / f"{folder.name}.html")
        if not self._options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        return found

    def propagation(self) -> list[float]:
        """Dice of each label, mean over ``val``, of the propagation alone."""
        from lib.formats.label_files import read_label
        from lib.formats.volumes import read_volume
        from lib.generalists.mind import Mind
        from lib.propagation import Template, propagate_from

        scan = read_volume(self._data.image(self._template))
        template = Template(self._template, scan, read_label(self._data.label(self._template), scan, self._schema))
        rows = []
        for name in self._data.split()["val"]:
            target = read_volume(self._data.image(name))
            channels = self._schema.channels
            soft = propagate_from([template], target, channels, generalist=Mind(), propagator=self._propagator)
            rows.append(self._dice(name, soft.labels()))
        return _means(rows)

    def _watcher(self) -> Any:
        """An observer that compares the specialist of each round with the truth of ``val``: the curve over rounds."""
        from lib.recipes import SilentObserver

        class Watcher(SilentObserver):
            def __init__(self, compare: Callable[[Path], list[float]]) -> None:
                self.found: dict[str, list[float]] = {}
                self.seconds = 0.0
                self._compare = compare

            def round_finished(self, finished: FinishedRound) -> None:
                if finished.checkpoint is not None:
                    begun = time.monotonic()
                    self.found[str(finished.index)] = self._compare(finished.checkpoint)
                    self.seconds += time.monotonic() - begun
                    print(f"round {finished.index}: {self.found[str(finished.index)]}", flush=True)

        return Watcher(self._val)

    def _val(self, checkpoint: Path) -> list[float]:
        from lib.formats.volumes import read_volume
        from lib.specialists import load_specialist, predict

        specialist = load_specialist(checkpoint, self._options.device)
        return _means(
            [
                self._dice(name, predict(specialist, read_volume(self._data.image(name))).labels())
                for name in self._data.split()["val"]
            ]
        )

    def _rounds(self, folder: Path, names: Sequence[str]) -> dict[str, list[float]]:
        """Mean Dice of the pseudo-labels, by round."""
        from lib.formats.label_files import read_label
        from lib.formats.volumes import read_volume

        found: dict[str, list[float]] = {}
        for part in sorted((folder / "rounds").iterdir()):
            labels = sorted(part.glob("*.nii.gz"))
            rows = []
            for name in names:
                file = next((f for f in labels if f.name.split("-", 1)[1] == f"{name}.nii.gz"), None)
                if file is not None:
                    scan = read_volume(self._data.image(name))
                    rows.append(self._dice(name, read_label(file, scan, self._schema, may_be_empty=True)))
            if rows:
                found[part.name] = _means(rows)
        return found

    def _logged(self, folder: Path) -> dict[str, float]:
        """Mean of the generalist term's gradient, where the recipe has one."""
        from lib.report import History

        values = [
            entry.metrics["generalist_gradient"]
            for entry in History(folder / "history.jsonl").read()
            if "generalist_gradient" in entry.metrics
        ]
        return {"generalist_gradient": statistics.fmean(values)} if values else {}

    def _dice(self, name: str, label: Any) -> list[float]:
        import numpy as np

        from lib.core.metrics import overlap
        from lib.formats.label_files import read_label
        from lib.formats.volumes import read_volume

        truth = read_label(self._data.label(name), read_volume(self._data.image(name)), self._schema)
        values = range(1, self._schema.channels)
        return [overlap(np.asarray(label) == value, truth == value)[0] for value in values]


@contextmanager
def plain_augmentation() -> Iterator[None]:
    """Trainings meanwhile move their windows, but change nothing in them."""
    from lib.recipes.semisam_o1 import recipe as semisam_o1
    from lib.specialists.augment import Augmentation

    still = Augmentation(rotation=0, scale=0, elastic=0, contrast=0, brightness=0, noise=0, bias=0)
    kept = semisam_o1.plan_of
    semisam_o1.plan_of = lambda run: replace(kept(run), augmentation=still)
    try:
        yield
    finally:
        semisam_o1.plan_of = kept


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [round(statistics.fmean(column), 4) for column in zip(*rows, strict=True)]


def report(store: Store, seeds: Sequence[int], check: bool) -> int:
    """Print the table; returns the exit status."""
    targets = common.Targets()
    means: dict[str, float] = {}
    rows = []
    propagated = store.data.get("propagation")
    if propagated:
        means["propagation"] = statistics.fmean(propagated)
        rows.append(["propagation", means["propagation"], None, None, None, None, None])
    for name in RUNS:
        runs = [store.data[f"{name} seed {seed}"] for seed in seeds if f"{name} seed {seed}" in store.data]
        if not runs:
            continue
        scores = [statistics.fmean(run["val"]) for run in runs]
        means[name] = statistics.fmean(scores)
        last = [statistics.fmean(run["rounds"][max(run["rounds"])]) for run in runs if run["rounds"]]
        rows.append(
            [
                name,
                means[name],
                max(scores) - min(scores) if len(scores) > 1 else None,
                statistics.fmean(last) if last else None,
                statistics.fmean(run["seconds"] for run in runs) / 60,
                max(run["peak_mib"] for run in runs),
                len(runs),
            ]
        )
    head = ["run", "val Dice", "between seeds", "pseudo-labels", "minutes", "peak MiB", "seeds"]
    print(table(head, rows))
    gradients = [
        run["generalist_gradient"]
        for run in store.data.values()
        if isinstance(run, dict) and "generalist_gradient" in run
    ]
    if gradients:
        print(f"Gradient of semisam_plus' generalist term, mean norm over a run's steps: {min(gradients):.2e} at least")
        targets.expect(min(gradients) > 0, "the generalist term of semisam_plus has a gradient")
    for alone in ("one_scan plain", "one_scan"):
        for name in ("semisam_o1 mean_teacher", "semisam_plus"):
            if name in means and alone in means:
                gain = means[name] - means[alone]
                targets.expect(gain >= LEAST_GAIN, f"{name} beats {alone} by {LEAST_GAIN}: {gain:+.4f}")
    recipes = {name: value for name, value in means.items() if name not in BASELINES}
    if recipes and "semisam_o1 mean_teacher" in recipes:
        behind = max(recipes.values()) - recipes["semisam_o1 mean_teacher"]
        targets.expect(
            behind <= NEAR_THE_BEST, f"the default is within {NEAR_THE_BEST} of the best: {behind:.4f} behind"
        )
    return targets.exit_code(check)


if __name__ == "__main__":
    sys.exit(main())
