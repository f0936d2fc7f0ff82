"""What several processes gain, and what their labels are worth.

The stages ``features``, ``propagation``, ``training`` and ``scoring`` time one process and two, each with one thread.
The scores of all runs are compared. The stage ``same`` runs whole recipes by one, two and four processes: round 0 must
be equal voxel by voxel, the same number of processes must give the same labels twice, and the table shows their Dice
with the labels of one process and with the truth.

    python benchmarks/bench_scale_out.py --check
    python benchmarks/bench_scale_out.py --stages same --recipes semisam_o1,ssl_medsam2 --epochs 3

Wall times need a machine that does nothing else. The table also has the load before each run, and the processor time of
the busiest process, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import common
from common import DataSet, Store, Targets, heading, open_dataset, table

STAGES = ("features", "propagation", "training", "scoring", "same")
RECIPES = ("semisam_o1", "semisam_plus", "fm_abs", "ssl_medsam2", "sc_sam")
LEAST = {"training": 1.6}
"""Speed-up of two processes on two cores, ``_LEAST`` for other stages."""
_LEAST = 1.7
WORLDS = (1, 2, 4)
_RESULT = "result.json"


def main() -> int:
    arguments = _arguments()
    if arguments.worker:
        return work(json.loads(arguments.worker))
    data = open_dataset(*_DATA[arguments.data])
    targets = Targets()
    stages = common.chosen(arguments.stages, STAGES, "--stages")
    store = Store(common.RESULTS / "scale_out.json", fresh=arguments.fresh)
    for stage in (s for s in stages if s != "same"):
        speed(stage, data, arguments, store, targets)
    if "same" in stages:
        for recipe in common.chosen(arguments.recipes, RECIPES, "--recipes"):
            same(recipe, data, arguments, store, targets)
    return targets.exit_code(arguments.check)


_DATA = {
    "la": ("la", ("left_atrium",)),
    "hippocampus": ("hippocampus", ("anterior", "posterior")),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    common.add_stage_options(parser, STAGES)
    parser.add_argument("--data", choices=_DATA, default="la")
    parser.add_argument("--scans", type=int, default=16, help="scans without a label (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of a training by one process (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="runs of each kind, in turns (default: %(default)s)")
    parser.add_argument("--generalist", default="mind")
    parser.add_argument("--recipes", default="semisam_o1", help="for the stage same (default: %(default)s)")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of a training, 0 for the preset's")
    parser.add_argument("--rounds", type=int, default=0, help="0 for the preset's")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


# --- speed ------------------------------------------------------------------------------------------------------------


def speed(stage: str, data: DataSet, arguments: argparse.Namespace, store: Store, targets: Targets) -> None:
    """One process against two."""
    heading(f"{stage}: {arguments.scans} scans of {data.name}, generalist {arguments.generalist}, one thread a process")
    kept: dict[str, list[float]] = {"1": [], "2": []}
    busy: dict[str, list[float]] = {"1": [], "2": []}
    rows: list[list[object]] = []
    outcomes: list[object] = []
    for turn in range(arguments.turns):
        for world in (1, 2):
            load = os.getloadavg()[0]
            found = launched(world, job_of(stage, data, arguments))
            kept[str(world)].append(found["seconds"])
            busy[str(world)].append(found["busy"])
            outcomes.append(found.get("scores"))
            rows.append([f"turn {turn + 1}, {world} processes", found["seconds"], found["busy"], load])
    one, two = (statistics.median(kept[world]) for world in ("1", "2"))
    by_processor = statistics.median(busy["1"]) / statistics.median(busy["2"])
    print(table(["run", "seconds", "processor seconds", "load before"], rows))
    print(f"\nspeed-up: {one / two:.2f} (medians {one:.1f} s and {two:.1f} s)", end="")
    print(f", {by_processor:.2f} by processor time", flush=True)
    store.data[f"{stage} {data.name} {arguments.generalist}"] = {
        "seconds": kept,
        "speed_up": one / two,
        "by_processor": by_processor,
    }
    store.save()
    if stage == "scoring":
        equal = all(outcome == outcomes[0] for outcome in outcomes)
        targets.expect(equal, "scoring: the same scores and descriptors in all runs, digit by digit")
    least = LEAST.get(stage, _LEAST)
    targets.expect(one / two >= least, f"{stage}: two processes at least {least} times as fast, {one / two:.2f}")


# --- the same labels --------------------------------------------------------------------------------------------------


def same(recipe: str, data: DataSet, arguments: argparse.Namespace, store: Store, targets: Targets) -> None:
    """Pseudo-labels of whole runs by one, two and four processes."""
    heading(f"{recipe}: {arguments.scans} scans of {data.name}, preset {arguments.preset}")
    labels: dict[str, dict[str, np.ndarray]] = {}
    seconds: dict[str, float] = {}
    begin: dict[str, dict[str, np.ndarray]] = {}
    for world in WORLDS:
        for turn in ("", ", again"):
            found = launched(world, {**job_of("same", data, arguments), "recipe": recipe})
            name = f"{world}{turn}"
            seconds[name] = found["seconds"]
            labels[name], begin[name] = ({k: unpacked(v) for k, v in found["labels"][n].items()} for n in ("last", "0"))
    truth = {name: _truth(data, name) for name in labels["1"]}
    rows = []
    for name, own in labels.items():
        overlap, _ = compare(labels["1"], own)
        rows.append([name, overlap, compare(truth, own)[0], seconds[name]])
        _, equal = compare(begin["1"], begin[name])
        targets.expect(equal == 1.0, f"{recipe}, {name} processes: round 0 as by one, {equal:.6f}")
        _, equal = compare(labels[name.partition(",")[0]], own)
        targets.expect(equal == 1.0, f"{recipe}, {name} processes: every voxel as the first time, {equal:.6f}")
    print(table(["processes", "mean Dice with one process", "with the truth", "seconds"], rows), flush=True)
    store.data[f"same {recipe} {data.name} {arguments.preset}"] = rows
    store.save()


def _truth(data: DataSet, name: str) -> np.ndarray:
    """The voxels of a label as ``unpacked`` gives them."""
    import nibabel

    return np.asarray(nibabel.load(data.label(name)).dataobj).astype(np.uint8).flatten(order="F")


def compare(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Mean Dice over scans and structures, and the share of voxels that are equal."""
    scores, equal, count = [], 0, 0
    for name, a in one.items():
        b = other[name]
        equal += int((a == b).sum())
        count += a.size
        for value in np.unique(np.concatenate([np.unique(a), np.unique(b)])):
            if value:
                scores.append(
                    2.0 * float(((a == value) & (b == value)).sum()) / float((a == value).sum() + (b == value).sum())
                )
    return (statistics.fmean(scores) if scores else 1.0), equal / count if count else 1.0


def unpacked(file: str) -> np.ndarray:
    """Voxels of a label file as bytes; its header is the same in all runs."""
    return np.frombuffer(gzip.decompress(bytes.fromhex(file)), np.uint8)[352:]


# --- processes --------------------------------------------------------------------------------------------------------


def job_of(stage: str, data: DataSet, arguments: argparse.Namespace) -> dict[str, Any]:
    split = data.split()
    names = [*split["train"], *split["val"]][: arguments.scans + 1]
    return {
        "stage": stage,
        "labels": list(data.labels),
        "cases": [
            [name, str(data.image(name)), str(data.label(name)) if n == 0 else None] for n, name in enumerate(names)
        ],
        "generalist": arguments.generalist,
        "preset": arguments.preset,
        "epochs": arguments.epochs,
        "rounds": arguments.rounds,
        "steps": arguments.steps,
    }


def launched(world: int, job: dict[str, Any]) -> dict[str, Any]:
    """Do the job in a fresh folder by so many processes of one thread each."""
    folder = Path(tempfile.mkdtemp(prefix="scale-out-"))
    try:
        command = [sys.executable]
        if world > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        command += [str(Path(__file__).resolve()), "--worker", json.dumps({**job, "folder": str(folder)})]
        subprocess.run(command, env={**common.limit_threads(1), "OMP_WAIT_POLICY": "PASSIVE"}, check=True)
        found: dict[str, Any] = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def work(job: dict[str, Any]) -> int:
    """A process's share of a job; the first one writes what was found. Loading Python and torch is not counted."""
    import ignite.distributed

    from lib.generalists import CachedGeneralist, FeatureCache, create_generalist
    from lib.parallel.ranks import Ranks, start, was_launched
    from lib.recipes import Case

    if was_launched():
        start("cpu")
    ranks = Ranks.current()
    folder = Path(job["folder"])
    generalist = CachedGeneralist(create_generalist(job["generalist"]), FeatureCache(folder / "features"))
    cases = [Case(name, Path(image), Path(label) if label else None) for name, image, label in job["cases"]]
    ranks.gather(0)
    begun, worked = time.perf_counter(), time.process_time()
    found: dict[str, object] = {}
    if job["stage"] == "features":
        _features(ranks, cases, generalist)
    elif job["stage"] == "propagation":
        _propagation(ranks, cases, generalist, job)
    elif job["stage"] == "training":
        _training(ranks, job)
    elif job["stage"] == "scoring":
        found["scores"] = _scoring(ranks, cases, generalist, job)
    else:
        found["labels"] = _recipe(ranks, cases, generalist, job)
    found["busy"] = max(ranks.gather(time.process_time() - worked))
    found["seconds"] = time.perf_counter() - begun
    if ranks.first:
        common.write_json(folder / _RESULT, found)
    if ranks.world > 1:
        ignite.distributed.finalize()
    return 0


def _features(ranks: Any, cases: Sequence[Any], generalist: Any) -> None:
    """Encode every scan for the matching, and keep the features on disk."""
    from lib.core.frames import frame_of
    from lib.formats.volumes import read_volume
    from lib.propagation import encoding_grid

    images = {case.name: case.image for case in cases}

    def encode(name: str) -> None:
        scan = read_volume(images[name])
        grid = encoding_grid(scan, frame_of(scan), generalist)
        generalist.encode(grid.image(scan.array), grid.spacing)

    ranks.each(list(images), encode)


def _propagation(ranks: Any, cases: Sequence[Any], generalist: Any, job: dict[str, Any]) -> None:
    """Round 0 of a training."""
    from lib.core.frames import frame_of
    from lib.core.labels import LabelSchema
    from lib.formats.volumes import read_volume
    from lib.propagation import create_propagator
    from lib.recipes import SilentObserver
    from lib.recipes.engine.context import Context
    from lib.recipes.engine.options import PRESETS, RecipeOptions
    from lib.recipes.engine.prepared_study import PreparedStudy
    from lib.recipes.engine.progress import Reporter
    from lib.recipes.engine.round_zero import propagate_study
    from lib.recipes.engine.run_folder import RunFolder
    from lib.specialists.spec import SpecialistSpec, choose_roi, choose_spacing

    schema, budget = LabelSchema(tuple(job["labels"])), PRESETS[job["preset"]]
    frame = frame_of(read_volume(cases[0].image))
    spacing = choose_spacing([frame.extent], [frame.spacing], budget.scan_voxels)
    roi = choose_roi([frame.extent], spacing, budget.roi_voxels, flat=False)
    spec = SpecialistSpec(schema.names, budget.widths, spacing, roi, "unet3d", inputs=1, flat=False)
    folder = RunFolder(Path(job["folder"]) / "run", ranks)
    with Reporter(SilentObserver(), 1, 1, {"propagation": len(cases)}) as reporter:
        run = Context(
            PreparedStudy(cases, schema, spec, folder.prepared),
            RecipeOptions(preset=job["preset"]),
            budget,
            generalist,
            create_propagator("registration"),
            folder,
            reporter,
            SilentObserver(),
            ranks=ranks,
        )
        propagate_study(run)


def _training(ranks: Any, job: dict[str, Any]) -> None:
    """One training of the default recipe on scans in memory; N processes take N times fewer steps."""
    from bench_training_speed import Phantoms, spec_of
    from lib.core.allocator import keep_freed_memory
    from lib.specialists.regularisers import build_regulariser
    from lib.training.loop import Trainer, TrainingPlan

    keep_freed_memory()  # as every job of the server does
    spec = spec_of(job["preset"])
    plan = TrainingPlan(epochs=1, iterations=-(-job["steps"] // ranks.world))
    regulariser = build_regulariser("mean_teacher", plan.steps)
    Trainer(spec, Phantoms(spec), regulariser, plan, ranks=ranks).train(0, lambda *_: None)


def _scoring(ranks: Any, cases: Sequence[Any], generalist: Any, job: dict[str, Any]) -> dict[str, Any]:
    """A pass over the scans without a label, as the scoring job does it; what it gives to the first process."""
    import torch

    from lib.core.labels import LabelSchema
    from lib.propagation import create_propagator
    from lib.selection.judge import Asked, Basis, Judge
    from lib.selection.measures import REPRESENTATIVENESS, UNCERTAINTY
    from lib.selection.outcome import Outcome
    from lib.selection.shared_pass import score_scans

    scores: dict[str, Any] = {}

    def keep(outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            assert not outcome.refused, outcome
            plain = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in outcome.found.items()}
            scores[outcome.name] = plain

    schema = LabelSchema(tuple(job["labels"]))
    basis = Basis(schema, Path(job["folder"]) / "none.pt", [case for case in cases if case.label])
    asked = [Asked(case.name, case.image, (REPRESENTATIVENESS, UNCERTAINTY)) for case in cases if not case.label]
    score_scans(asked, Judge(basis, generalist, create_propagator("registration"), "cpu"), keep=keep, ranks=ranks)
    return dict(sorted(scores.items()))


def _recipe(ranks: Any, cases: Sequence[Any], generalist: Any, job: dict[str, Any]) -> dict[str, dict[str, str]]:
    """A whole run; the labels of the last round and of round 0, by scan."""
    from lib.core.labels import LabelSchema
    from lib.propagation import create_propagator
    from lib.recipes import RecipeOptions, RecipeSettings, RunRequest, SilentObserver, run_recipe

    options = RecipeOptions(
        recipe=job["recipe"], preset=job["preset"], max_epochs=job["epochs"] or None, rounds=job["rounds"] or None
    )
    result = run_recipe(
        RunRequest(
            cases,
            LabelSchema(tuple(job["labels"])),
            options,
            RecipeSettings(),
            Path(job["folder"]) / "runs",
        ),
        generalist=generalist,
        propagator=create_propagator("registration"),
        observer=SilentObserver(),
        ranks=ranks,
    )
    last = {name: label.path for name, label in result.pseudo_labels.items()}
    first = {name: result.folder / "rounds" / "0" / path.name for name, path in last.items()}
    return {
        "last": {name: path.read_bytes().hex() for name, path in last.items()},
        "0": {name: path.read_bytes().hex() for name, path in first.items() if path.is_file()},
    }


if __name__ == "__main__":
    raise SystemExit(main())
