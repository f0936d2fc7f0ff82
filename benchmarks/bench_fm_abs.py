"""FM-ABS on hippocampus: three outlined slices a scan against whole outlines, and each part removed in turn.

The same scans, steps and network for all. The slices go through the centre of the box around the truth of each outlined
scan, as in the published code (lemoshu/GM-ABS); a person chooses them by eye. The generalist is the graph cut that
needs no weights (what the server does with the generalist ``mind``). One training each, no pseudo-labels of an earlier
round. Figures are of the teacher on the ``val`` scans, which no training sees.

Needs the scans in ``../shared/data/hippocampus`` (or ``$SEMISAM_DATA/hippocampus``); ends with a message and exit
code 0 without them. An interrupted run goes on where it was; ``--fresh`` measures everything anew.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

import common
import propagation
from common import DataSet, Store, Targets, heading, table

WIDTHS = (16, 32, 64, 128)
EXTENT_MM = (36, 50, 36)
"""What a window covers at least: nearly all of a scan."""
HARMLESS = 0.003
"""Dice that the generalist's term may cost at most: differences between seeds are larger."""


@dataclass(frozen=True)
class Variant:
    """A training to compare.

    Args:
        text: what it is, for the table.
        sparse: three planes a scan are annotated, not all.
        others: the scans without a label are used.
        collaboration: options of the generalist's help that differ from the recipe's, None for none at all.
        consistency: lambda_c at the end.
        overlap: share of the partial Dice in the supervised loss.
    """

    text: str
    sparse: bool = True
    others: bool = True
    collaboration: dict[str, Any] | None = field(default_factory=dict)
    consistency: float = 0.1
    overlap: float | None = None


VARIANTS = {
    "dense": Variant("whole outlines, supervised only", False, False, None, 0.0),
    "sparse": Variant("three planes, supervised only", True, False, None, 0.0),
    "fm_abs": Variant("three planes, fm_abs (majority)"),
    "unanimous": Variant("  with unanimous agreement", collaboration={"fusion": "unanimous"}),
    "no_generalist": Variant("  without the generalist's term", collaboration=None),
    "no_consistency": Variant("  without the consistency", consistency=0.0),
    "paper_loss": Variant("  partial cross-entropy alone, as in the paper", overlap=0.0),
    "dense_fm_abs": Variant("whole outlines, fm_abs (majority)", sparse=False),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma list (default: all)")
    parser.add_argument("--steps", type=int, default=400, help="steps of each training (default: 400)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each variant (default: 2)")
    parser.add_argument("--outlined", type=int, default=20, help="outlined scans (default: 20)")
    parser.add_argument("--others", type=int, default=60, help="scans without a label (default: 60)")
    parser.add_argument("--spacing", type=float, default=1.2, help="voxel size in mm (default: 1.2)")
    parser.add_argument("--val-scans", type=int, help="use the first so many scans of val only")
    parser.add_argument("--threads", type=int, default=common.THREADS, help="CPU threads (default: 2)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the generalist's term does harm")
    parser.add_argument("--fresh", action="store_true", help="forget results of earlier runs")
    options = parser.parse_args()
    common.end_on_sigterm()
    data = common.open_dataset("hippocampus", ["anterior", "posterior"])
    chosen = common.chosen(options.variants, list(VARIANTS), "--variants")
    return run(data, chosen, options).exit_code(options.check)


def run(data: DataSet, chosen: Sequence[str], options: argparse.Namespace) -> Targets:
    """Train, evaluate and print; what is done already is kept."""
    split = data.split()
    scans = split["train"][: options.outlined + options.others]
    outlined, others = scans[: options.outlined], scans[options.outlined :]
    val = split["val"][: options.val_scans]
    code = common.fingerprint([common.APP / "lib", Path(__file__)])
    work = common.RESULTS / data.name / "fm_abs"
    what = (options.steps, options.outlined, options.others, options.spacing, len(val))
    key = "-".join(f"{n:g}" for n in what)
    store = Store(work / f"results-{key}.json", fresh=options.fresh)
    heading(
        "FM-ABS, hippocampus",
        {
            "outlined": len(outlined),
            "without a label": len(others),
            "val": len(val),
            "steps": options.steps,
            "spacing": f"{options.spacing:g} mm",
        },
    )
    for seed in range(options.seeds):
        for name in chosen:
            kept = store.data.setdefault(name, {}).get(str(seed))
            if kept is None:
                kept = _measure(data, VARIANTS[name], outlined, others, val, seed, options, work / key)
                store.data[name][str(seed)] = {**kept, "code": code}
                store.save()
            elif kept["code"] != code:
                print(f"{name}, seed {seed}: measured with other code; --fresh measures anew")
            dice = statistics.fmean(propagation.scan_dice(r) for r in kept["val"].values())
            print(f"seed {seed} {name}: Dice {dice:.4f}, {kept['seconds']:.0f} CPU s", flush=True)
    print()
    print(report(store, chosen, options.seeds, val))
    return judged(store, chosen, options.seeds)


def judged(store: Store, chosen: Sequence[str], seeds: int) -> Targets:
    """Whether the generalist's term does no harm, where that was measured."""
    targets = Targets()
    without = "no_generalist"
    for name in ("fm_abs", "unanimous"):
        if name in chosen and without in chosen:
            gain = mean_dice(store, name, seeds) - mean_dice(store, without, seeds)
            targets.expect(gain >= -HARMLESS, f"{name} against {without}: {gain:+.4f} Dice (at least -{HARMLESS})")
    return targets


def mean_dice(store: Store, name: str, seeds: int) -> float:
    """Mean over seeds and scans."""
    done = [store.data[name][str(seed)]["val"] for seed in range(seeds)]
    return statistics.fmean(propagation.scan_dice(scan) for val in done for scan in val.values())


def report(store: Store, chosen: Sequence[str], seeds: int, val: Sequence[str]) -> str:
    """The table."""
    rows: list[list[object]] = []
    for name in chosen:
        done = [store.data[name][str(seed)] for seed in range(seeds)]
        results = [one["val"][scan] for one in done for scan in val]
        by_seed = [statistics.fmean(propagation.scan_dice(one["val"][s]) for s in val) for one in done]
        spread = max(by_seed) - min(by_seed) if len(by_seed) > 1 else None
        share = 100 * statistics.fmean(one["annotated"] for one in done)
        seconds = statistics.fmean(one["seconds"] for one in done)
        rows.append([VARIANTS[name].text, share, *propagation.quality_cells(results), spread, seconds])
    return table(["training", "annotated %", *propagation.HEAD, "between seeds", "CPU s/training"], rows)


def _measure(
    data: DataSet,
    variant: Variant,
    outlined: Sequence[str],
    others: Sequence[str],
    val: Sequence[str],
    seed: int,
    options: argparse.Namespace,
    work: Path,
) -> dict[str, Any]:
    """Train once and evaluate: CPU seconds, annotated share of the outlined scans' voxels, scores by scan of val."""
    import torch

    from lib.core.labels import LabelSchema
    from lib.formats.volumes import read_volume
    from lib.generalists import create_generalist
    from lib.recipes.engine.prepared_study import PreparedStudy
    from lib.recipes.fm_abs.answerers import answerer_of
    from lib.recipes.fm_abs.assistant import SliceAssistant, SliceOptions
    from lib.recipes.fm_abs.plane_labels import PartialObjective, WholeStudy
    from lib.specialists import Specialist, SpecialistSpec, predict
    from lib.specialists.regularisers import build_regulariser
    from lib.specialists.regularisers.perturbed_teacher import PerturbedTeacher
    from lib.specialists.regularisers.teacher import TeacherRegulariser
    from lib.training.loop import Trainer, TrainingPlan
    from lib.training.scan_view import ScanView

    torch.set_num_threads(options.threads)
    schema = LabelSchema(data.labels)
    roi = [8 * math.ceil(extent / options.spacing / 8) for extent in EXTENT_MM]
    spec = SpecialistSpec(schema.names, WIDTHS, (options.spacing,) * 3, (roi[0], roi[1], roi[2]))
    folder = work / ("sparse" if variant.sparse else "dense")
    study = PreparedStudy(_cases(data, outlined, others if variant.others else ()), schema, spec, folder)
    annotated = _prepare(study, data, variant.sparse)

    def view(name: str) -> ScanView:
        frame = study.prepared(name).frame
        return ScanView(frame.image(study.read(name).array), frame.spacing)

    assistant = None
    if variant.collaboration is not None:
        answerer = answerer_of(create_generalist("mind"))
        wanted = SliceOptions(**variant.collaboration)
        assistant = SliceAssistant(answerer, view, lambda _: None, schema.channels, wanted)
    objective = PartialObjective()
    if variant.overlap is not None:
        objective = replace(objective, overlap=variant.overlap)
    plan = TrainingPlan(epochs=max(1, options.steps // 20), iterations=20, objective=objective)
    begun = time.process_time()
    usual = build_regulariser("mean_teacher", plan.steps)
    assert isinstance(usual, TeacherRegulariser)
    teacher = PerturbedTeacher(variant.consistency, usual.most)
    trainer = Trainer(spec, WholeStudy(study), teacher, plan, assistant=assistant)
    trained = trainer.train(seed, lambda step, metrics: None)
    seconds = time.process_time() - begun
    specialist = Specialist(spec, tuple(trained.members[:1]))
    scores = {}
    for scan in val:
        label = predict(specialist, read_volume(data.image(scan))).labels()
        scores[scan] = {"labels": propagation.evaluate(label, data, scan)}
    return {"seconds": seconds, "annotated": annotated, "val": scores}


def _cases(data: DataSet, outlined: Sequence[str], others: Sequence[str]) -> list[Any]:
    from lib.recipes import Case

    return [
        *(Case(name, data.image(name), data.label(name)) for name in outlined),
        *(Case(name, data.image(name)) for name in others),
    ]


def _prepare(study: Any, data: DataSet, sparse: bool) -> float:
    """Put all scans on the grid; returns the annotated share of the outlined scans' voxels."""
    from lib.core.frames import frame_of
    from lib.core.sparse_labels import Planes, find_planes

    shares = []
    for name in [*study.human(), *study.unlabelled()]:
        scan = study.read(name)
        frame = frame_of(scan)
        study.prepare(name, scan, frame)
        if name not in study.human():
            continue
        label = np.asarray(nibabel.load(data.label(name)).dataobj).astype(np.uint8)
        shares.append(1.0)
        if sparse:
            ends = np.argwhere(label > 0)
            i, j, k = ((ends.min(0) + ends.max(0)) // 2).tolist()
            label = np.where(Planes((i, j, k)).mask(label.shape), label, 0).astype(np.uint8)
            found = find_planes(label)
            if found != Planes((i, j, k)):
                raise SystemExit(f"{name}: the planes {(i, j, k)} were not recognised ({found})")
            shares[-1] = found.share(label.shape)
        study.keep_human(name, label, frame)
    return statistics.fmean(shares)


if __name__ == "__main__":
    sys.exit(main())
