"""Training through a running server: what the specialist and the pseudo-labels gain over the propagation."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

import common
import propagation
from common import DataSet, Store, cell, heading, table
from propagation import Result
from startserver import Server

POLL_SECONDS = 2.0
MODELS = {"propagate": "propagation", "segment": "specialist"}


@dataclass(frozen=True)
class Outcome:
    """What a training gained; gains are differences of mean Dice, NaN when they could not be measured.

    Args:
        specialist_gain: published specialist against propagation, on scans that are not in the study.
        pseudo_label_gain: last round's pseudo-labels against the propagation's, on the study's unlabelled scans.
        refinement_gains: pseudo-labels against the same specialist's unrefined predictions, by round.
        seconds: duration of the training.
        unlabelled: scans without a human label.
        peak_mib: most memory of the training's processes.
        val: results of ``propagate`` and ``segment`` on scans that are not in the study, by scan.
    """

    specialist_gain: float
    pseudo_label_gain: float
    refinement_gains: dict[int, float]
    seconds: float
    unlabelled: int
    peak_mib: float
    val: dict[str, list[Result]]


def add_options(
    parser: argparse.ArgumentParser, *, preset: str, conf: Sequence[str], limit_minutes: float, ablation: bool
) -> None:
    """Options of the training stage."""
    group = parser.add_argument_group("training")
    group.add_argument("--preset", default=preset, help=f"preset of the training (default: {preset})")
    group.add_argument("--rounds", type=int, default=0, help="rounds (default: the preset's)")
    group.add_argument("--max-epochs", type=int, default=0, help="epochs of a training (default: the preset's)")
    group.add_argument("--recipe", default="semisam_o1", help="recipe (default: semisam_o1)")
    group.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    group.add_argument("--device", default="cpu", help="device of the training (default: cpu)")
    group.add_argument("--val-scans", type=int, help="use the first so many scans of val only")
    group.add_argument(
        "--conf", action="append", default=[], metavar="NAME=VALUE", help=f"server setting; always: {', '.join(conf)}"
    )
    group.add_argument("--limit-minutes", type=float, default=limit_minutes, help="give up a training after this time")
    group.add_argument(
        "--ablation",
        action=argparse.BooleanOptionalAction,
        default=ablation,
        help="predict the study again with each round's specialist, to see what the refinement does",
    )
    parser.set_defaults(base_conf=list(conf))


def stage(data: DataSet, options: argparse.Namespace) -> Outcome:
    """Train, evaluate and print; what an interrupted run has done is not done again."""
    split = data.split()
    template, *unlabelled = split["train"]
    unlabelled = unlabelled[: options.scans]
    val = split["val"][: options.val_scans]
    conf = common.key_values([*options.base_conf, *options.conf], "--conf")
    request = {name: getattr(options, name) for name in ("recipe", "preset", "rounds", "max_epochs", "seed", "device")}
    what = {"template": template, "unlabelled": unlabelled, "conf": conf, "request": request}
    heading(
        f"Training through the server, {data.name}",
        {"template": template, "unlabelled": len(unlabelled), "val": len(val), **conf, **request},
    )
    code = common.fingerprint([common.APP / "lib"])
    name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    work = common.RESULTS / data.name / f"training-{name}-{code[:8]}"
    if options.fresh and work.exists():
        shutil.rmtree(work)
    store = Store(work / "results.json")
    store.data.setdefault("what", what)
    store.save()
    print(f"Study, app, log and results: {work.relative_to(common.ROOT)}", flush=True)
    make_study(data, work / "study", template, [*unlabelled])

    results: dict[str, dict[str, Result]] = store.data.setdefault("val", {})
    missing = any(scan not in results.get(model, {}) for model in MODELS for scan in val)
    if "training" not in store.data or missing:
        with Server(work / "app", work / "study", conf, work / "server.log") as server:
            if "training" not in store.data:
                store.data["training"] = train(server, request, options.limit_minutes * 60, work, store)
                store.save()
            evaluate_val(server, data, val, store, work / "val")
    rounds = evaluate_rounds(data, unlabelled, store, work / "app", options.ablation)
    report(data, val, results, rounds, store.data["training"])
    last = max(rounds, default=0)
    gains = {}
    for number, both in rounds.items():
        pairs = [(both["labels"][s], both["unrefined"][s]) for s in both["unrefined"]]
        if pairs:
            gains[number] = statistics.fmean(propagation.scan_dice(a) - propagation.scan_dice(b) for a, b in pairs)
    return Outcome(
        specialist_gain=_mean_dice(results, "segment", val) - _mean_dice(results, "propagate", val),
        pseudo_label_gain=_round_dice(rounds, last) - _round_dice(rounds, 0) if last else math.nan,
        refinement_gains=gains,
        seconds=store.data["training"]["seconds"],
        unlabelled=len(unlabelled),
        peak_mib=store.data["training"]["peak_mib"],
        val={model: [results[model][scan] for scan in val] for model in MODELS},
    )


def _mean_dice(results: Mapping[str, Mapping[str, Result]], model: str, scans: Sequence[str]) -> float:
    return statistics.fmean(propagation.scan_dice(results[model][scan]) for scan in scans)


def _round_dice(rounds: Mapping[int, Mapping[str, Mapping[str, Result]]], number: int) -> float:
    return statistics.fmean(propagation.scan_dice(r) for r in rounds[number]["labels"].values())


def make_study(data: DataSet, study: Path, template: str, unlabelled: Sequence[str]) -> None:
    """A study folder with copies of the scans and the template's label as ``final``; an existing one stays."""
    if (study / ".complete").exists():
        return
    final = study / "labels" / "final"
    final.mkdir(parents=True, exist_ok=True)
    for scan in [template, *unlabelled]:
        shutil.copyfile(data.image(scan), study / f"{scan}.nii.gz")
        for file in data.further(scan):
            shutil.copyfile(file, study / file.name)
    shutil.copyfile(data.label(template), final / f"{template}.nii.gz")
    (study / ".complete").touch()


def train(server: Server, request: Mapping[str, Any], limit: float, work: Path, store: Store) -> dict[str, float]:
    """Train until the end, and watch; what earlier, interrupted tries took counts as well.

    Returns:
        ``seconds`` of the training, ``peak_mib`` of its processes, ``info_seconds``: the longest answer of ``/info/``
        meanwhile.

    Raises:
        SystemExit: when the training fails or takes too long.
    """
    spent = store.data.setdefault("spent", {"seconds": 0.0, "peak_mib": 0.0, "info_seconds": 0.0})
    earlier = spent["seconds"]
    if earlier:
        print(f"An earlier run was interrupted after {earlier:.0f} s: the training goes on", flush=True)
    server.post("/train/semisam", request)
    begun = time.monotonic()
    shown = ""
    while True:
        time.sleep(POLL_SECONDS)
        asked = time.perf_counter()
        info = server.get("/info/")
        spent["info_seconds"] = max(spent["info_seconds"], time.perf_counter() - asked)
        spent["peak_mib"] = max(spent["peak_mib"], server.training_memory())
        status = server.get("/train/?all=false")
        taken = time.monotonic() - begun
        spent["seconds"] = earlier + taken
        store.save()
        stats = info["train_stats"].get("semisam") or {}
        line = " ".join(f"{stats[k]}" for k in ("stage", "round", "epoch", "total_epochs") if k in stats)
        if line != shown:
            print(f"{taken:7.0f} s  {line}", flush=True)
            shown = line
        if status["status"] == "DONE":
            return dict(spent)
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            tail = "\n".join(str(text).rstrip() for text in status.get("details", [])[-20:])
            raise SystemExit(f"The training ended with {status['status']}; see {work / 'server.log'}\n{tail}")
        if taken > limit:
            raise SystemExit(
                f"The training takes longer than {limit / 60:.0f} minutes: given up. Start again to go on."
            )


def evaluate_val(server: Server, data: DataSet, val: Sequence[str], store: Store, folder: Path) -> None:
    """Send scans that the study does not have to the server, and compare its answers with the truth."""
    for scan in val:
        for model in MODELS:
            kept = store.data["val"].setdefault(model, {})
            if scan in kept:
                continue
            out = folder / model / f"{scan}.nii.gz"
            seconds = server.infer(model, data.image(scan), out)
            kept[scan] = {"seconds": seconds, "labels": _evaluate(out, data, scan)}
            store.save()
        line = "  ".join(
            f"{text} {propagation.scan_dice(store.data['val'][m][scan]):.3f}" for m, text in MODELS.items()
        )
        print(f"val {scan}: {line}", flush=True)


def _evaluate(file: Path, data: DataSet, scan: str) -> list[dict[str, float | None]]:
    found = nibabel.load(file)
    truth = nibabel.load(data.label(scan))
    if not np.allclose(found.affine, truth.affine, atol=1e-3):
        raise SystemExit(f"{file} does not lie where its scan lies")
    return propagation.evaluate(np.asarray(found.dataobj), data, scan)


def evaluate_rounds(
    data: DataSet, unlabelled: Sequence[str], store: Store, app: Path, ablation: bool
) -> dict[int, dict[str, dict[str, Result]]]:
    """Pseudo-labels of every round that the run's folder keeps, and with ``ablation`` the unrefined predictions.

    Returns:
        round -> ``labels`` and ``unrefined`` -> scan -> result.
    """
    kept: dict[str, dict[str, dict[str, Result]]] = store.data.setdefault("rounds", {})
    runs = sorted(app.glob("model/semisam/*/runs/run-*"))
    folders = {int(p.name): p for p in (runs[-1] / "rounds").iterdir() if p.name.isdecimal()} if runs else {}
    for number, folder in sorted(folders.items()):
        found = kept.setdefault(str(number), {"labels": {}, "unrefined": {}})
        for scan in unlabelled:
            # The run numbers its files: 00012-<scan>.nii.gz
            file = next(folder.glob(f"[0-9]*-{scan}.nii.gz"), None)
            if scan not in found["labels"] and file is not None:
                found["labels"][scan] = {"labels": _evaluate(file, data, scan)}
        store.save()
        checkpoint = folder / "specialist.pt"
        if ablation and checkpoint.is_file():
            _predict_unrefined(data, unlabelled, store, found["unrefined"], checkpoint)
    return {int(number): found for number, found in kept.items()}


def _predict_unrefined(
    data: DataSet, unlabelled: Sequence[str], store: Store, found: dict[str, Result], checkpoint: Path
) -> None:
    """What the specialist of a round says by itself about the study's scans."""
    missing = [scan for scan in unlabelled if scan not in found]
    if not missing:
        return
    import torch

    from lib.formats.volumes import read_volume
    from lib.specialists import load_specialist, predict

    torch.set_num_threads(common.THREADS)
    print(f"round {checkpoint.parent.name}: predicting {len(missing)} scans without refinement", flush=True)
    specialist = load_specialist(checkpoint)
    for scan in missing:
        label = predict(specialist, read_volume(data.image(scan))).labels()
        found[scan] = {"labels": propagation.evaluate(label, data, scan)}
        store.save()


def report(
    data: DataSet,
    val: Sequence[str],
    results: Mapping[str, Mapping[str, Result]],
    rounds: Mapping[int, Mapping[str, Mapping[str, Result]]],
    training: Mapping[str, float],
) -> None:
    """Print the tables."""
    rows: list[list[object]] = []
    for number, found in sorted(rounds.items()):
        for kind, text in (("unrefined", "specialist, unrefined"), ("labels", "pseudo-labels")):
            scored = list(found[kind].values())
            if scored:
                which = "propagation" if number == 0 else text
                rows.append([f"train, round {number}: {which}", len(scored), *_quality(scored, len(data.labels)), None])
    for model, text in MODELS.items():
        scored = [results[model][scan] for scan in val]
        seconds = statistics.median(r["seconds"] for r in scored)
        rows.append([f"val: {text}", len(scored), *_quality(scored, len(data.labels)), seconds])
    names = data.labels if len(data.labels) > 1 else []
    head = ["stage", "scans", *propagation.HEAD, *(f"Dice {name}" for name in names), "s/scan median"]
    print()
    print(table(head, rows))
    print()
    print(
        f"Training: {cell(training['seconds'] / 60)} minutes, peak memory {training['peak_mib']:.0f} MiB, "
        f"longest answer of /info/ meanwhile {cell(training['info_seconds'])} s."
    )


def _quality(results: Sequence[Result], labels: int) -> list[object]:
    single = [propagation.mean_of(results, "dice", n) for n in range(labels)] if labels > 1 else []
    return [*propagation.quality_cells(results), *single]
