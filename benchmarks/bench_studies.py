"""Propagation of one outline through seven whole studies, case by case, also turned and cut.

Needs the scans in ``../shared/data`` (or ``$SEMISAM_DATA``); a study that is not there is left out with a message.
What an earlier run of the same code has measured is kept.

    make bench-studies BENCH_ARGS="--studies mscmr --scans 4 --variants 'as it is,in 90'"
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import common
from common import Store, table
from lib.core.labels import LabelSchema
from lib.core.metrics import overlap
from lib.generalists import create_generalist
from lib.propagation import Template, create_propagator, propagate_from, warnings_of
from studies import STUDIES, VARIANTS, Study

Case = dict[str, Any]

PARTS = ("core", "formats", "generalists", "propagation")


def measure(study: Study, names: Sequence[str], variants: Sequence[str], store: Store, propagator: str) -> None:
    """Carry the template over to scans in each variant; each case is kept as soon as it is measured."""
    version = common.fingerprint([common.APP / "lib" / part for part in PARTS], propagator)
    if store.data.get("version") != version:
        store.data = {"version": version, "cases": {}}
    cases: dict[str, Case] = store.data["cases"]
    template, method = Template(names[0], *study.read(names[0])), create_propagator(propagator)
    for name in names[1:]:
        for variant in variants:
            key = f"{name} {variant}"
            if key not in cases:
                cases[key] = {"scan": name, "variant": variant} | _carried(study, template, name, variant, method)
                store.save()
                print(f"{study.name} {key}: {_brief(cases[key])}", flush=True)


def _carried(study: Study, template: Template, name: str, variant: str, method: Any) -> Case:
    scan, truth = VARIANTS[variant](study.read(name))
    schema = LabelSchema(tuple(f"structure {value}" for value in study.values))
    begun, wall = time.process_time(), time.perf_counter()
    soft = propagate_from([template], scan, schema.channels, generalist=create_generalist("mind"), propagator=method)
    label = soft.labels()
    seconds, wall = time.process_time() - begun, time.perf_counter() - wall
    said = warnings_of(soft, label, scan, [template], schema.names)
    dice = [overlap(label == n, truth == n)[0] for n in range(1, schema.count + 1) if (truth == n).any()]
    return {
        "dice": [round(each, 4) for each in dice],
        "confidence": round(soft.mean_confidence(), 4),
        "similarity": round(soft.similarity, 4),
        "agreement": None if soft.agreement is None else round(soft.agreement, 4),
        "warnings": list(said),
        "processor_seconds": round(seconds, 3),
        "seconds": round(wall, 3),
    }


def mean_dice(case: Case) -> float:
    """Over the structures that the scan has."""
    return statistics.fmean(case["dice"])


def _brief(case: Case) -> str:
    shown = f"{mean_dice(case):.3f} confidence {case['confidence']:.3f} similarity {case['similarity']:.3f}"
    return f"{shown} {case['processor_seconds']:.1f} s{' WARNED' if case['warnings'] else ''}"


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, ties by their order; NaN of fewer than three."""
    if len(first) < 3:
        return float("nan")
    one, other = (np.argsort(np.argsort(each, kind="stable"), kind="stable") for each in (first, second))
    return float(np.corrcoef(one, other)[0, 1])


def tables(found: Mapping[str, Sequence[Case]]) -> list[str]:
    """A table of studies and variants, and one of how far confidence and warnings are right."""
    rows: list[list[object]] = []
    for name, cases in found.items():
        plain = {case["scan"]: mean_dice(case) for case in cases if case["variant"] == "as it is"}
        for variant in dict.fromkeys(case["variant"] for case in cases):
            ours = [case for case in cases if case["variant"] == variant]
            dice = [mean_dice(case) for case in ours]
            lost = [plain[case["scan"]] - mean_dice(case) for case in ours if case["scan"] in plain]
            rows.append(
                [
                    f"{name}, {variant}",
                    len(ours),
                    *(statistics.fmean(dice), min(dice), sum(each < 0.3 for each in dice)),
                    f"{statistics.fmean(lost):+.3f}" if variant != "as it is" and lost else "",
                    rank_correlation(dice, [case["confidence"] for case in ours]),
                    sum(bool(case["warnings"]) for case in ours),
                    statistics.median(case["processor_seconds"] for case in ours),
                ]
            )
    head = ["study", "scans", "Dice", "worst", "below 0.3", "lost", "Spearman", "warned", "processor s"]
    return [table(head, rows), _trust([case for cases in found.values() for case in cases])]


def _trust(cases: Sequence[Case]) -> str:
    dice = [mean_dice(case) for case in cases]
    rows: list[list[object]] = [["Spearman of confidence and Dice", rank_correlation(dice, _of(cases, "confidence"))]]
    rows.append(["Spearman of similarity and Dice", rank_correlation(dice, _of(cases, "similarity"))])
    told = [(each, case) for each, case in zip(dice, cases, strict=True) if case["agreement"] is not None]
    rows.append(
        [
            "Spearman of agreement and Dice",
            rank_correlation([each for each, _ in told], _of([case for _, case in told], "agreement")),
        ]
    )
    bounds = (("below 0.3 (all should be)", -1.0, 0.3), ("0.3 to 0.7", 0.3, 0.7))
    for text, low, high in (*bounds, ("above 0.7 (1 in 20 at most)", 0.7, 1.1)):
        these = [case for case, each in zip(cases, dice, strict=True) if low <= each < high]
        rows.append([f"warned, Dice {text}", f"{sum(bool(case['warnings']) for case in these)} of {len(these)}"])
    return table(["all cases", "figure"], rows)


def _of(cases: Sequence[Case], key: str) -> list[float]:
    return [case[key] for case in cases]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", default=",".join(STUDIES), help="comma list (default: all)")
    parser.add_argument("--scans", type=int, help="so many of each study (default: as many as the page has)")
    parser.add_argument("--variants", default="as it is", help=f"comma list of: {', '.join(VARIANTS)}")
    parser.add_argument("--propagator", default="registration")
    parser.add_argument("--tag", default="now", help="name of the folder that keeps the results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget results of earlier runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    variants = common.chosen(options.variants, tuple(VARIANTS), "--variants")
    found: dict[str, list[Case]] = {}
    for name in common.chosen(options.studies, tuple(STUDIES), "--studies"):
        study = STUDIES[name]
        if not study.folder.is_dir():
            print(f"Skipped: the {name} scans are not there ({study.folder}).")
            continue
        store = Store(common.RESULTS / "studies" / options.tag / f"{name}.json", fresh=options.fresh)
        names = study.names()[: (options.scans or study.scans) + 1]
        here = [each for each in variants if not (study.suffix == ".png" and each == "out 20")]
        measure(study, names, here, store, options.propagator)
        kept = store.data["cases"].values()
        found[name] = [case for case in kept if case["scan"] in names and case["variant"] in here]
    print("\n", *tables(found), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
