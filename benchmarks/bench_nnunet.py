"""SSL-MedSAM2 with the real nnU-Net on hippocampus scans, one outlined scan: pseudo-labels before and after a cycle.

Stock one-epoch trainer of nnU-Net (250 steps), few scans and folds, so that it ends on a CPU. Needs nnU-Net
(``pip install -r requirements-nnunet.txt``) and the scans in ``../shared/data/hippocampus`` (or
``$SEMISAM_DATA/hippocampus``); ends with a message and exit code 0 without them. An interrupted run goes on at the next
fold when it is started again; ``--fresh`` starts anew.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from dataclasses import replace
from functools import partial

import nibabel
import numpy as np

import common
import propagation
from common import DataSet, Store, heading, table
from propagation import Result

LABELS = ("anterior", "posterior")


class Watch:
    """Scores the pseudo-labels of every finished round; the truth is seen by nobody else."""

    def __init__(self, data: DataSet, store: Store) -> None:
        self._data = data
        self._store = store
        self._begun = time.monotonic()
        self._spent = float(store.data.setdefault("seconds", 0.0))

    def progress(self, progress: object) -> None:
        self._store.data["seconds"] = self._spent + time.monotonic() - self._begun
        self._store.save()

    def round_finished(self, finished: object) -> None:
        index, labels = finished.index, finished.pseudo_labels  # type: ignore[attr-defined]
        self._store.data.setdefault("rounds", {})[str(index)] = {
            scan: {"labels": propagation.evaluate(np.asarray(nibabel.load(one.path).dataobj), self._data, scan)}
            for scan, one in labels.items()
        }
        self.progress(None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=10, help="unlabelled scans (default: 10)")
    parser.add_argument("--folds", type=int, default=2, help="trainings of the cycle (default: 2; the recipe has 5)")
    parser.add_argument("--network", default="nnunetv2", help="nnunetv2 (default), or one of our own to compare")
    parser.add_argument("--max-epochs", type=int, default=1, help="epochs of a training (default: 1)")
    parser.add_argument("--threads", type=int, default=common.THREADS, help=f"(default: {common.THREADS})")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run")
    options = parser.parse_args()
    data = common.open_dataset("hippocampus", LABELS)
    common.end_on_sigterm()

    import torch

    from lib.core.labels import LabelSchema
    from lib.generalists import create_generalist
    from lib.nnunet import MissingPackageError, need_nnunet
    from lib.propagation import create_propagator
    from lib.recipes import Case, RecipeSettings, RunRequest, parse_options, registry, run_recipe
    from lib.recipes.ssl_medsam2.recipe import NNUNET, run_ssl_medsam2

    if options.network == NNUNET:
        try:
            need_nnunet()
        except MissingPackageError as error:
            print(f"Skipped: {error}")
            return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    template, *others = data.split()["train"]
    unlabelled = others[: options.scans]
    chosen = {name: getattr(options, name) for name in ("network", "folds", "max_epochs", "device")}
    heading(
        "SSL-MedSAM2, one cycle, hippocampus",
        {"template": template, "unlabelled": len(unlabelled), "propagator": "registration", **chosen},
    )
    work = common.RESULTS / data.name / "-".join(["nnunet", *(str(v) for v in chosen.values()), str(options.scans)])
    if options.fresh and work.exists():
        shutil.rmtree(work)
    store = Store(work / "results.json")
    recipe = replace(
        registry.RECIPES["ssl_medsam2"],
        run=partial(run_ssl_medsam2, folds=options.folds),
        trainings=options.folds,
    )
    # The number of folds is the paper's and no option of the recipe.
    registry.RECIPES["ssl_medsam2"] = recipe  # type: ignore[index]
    request = {"recipe": "ssl_medsam2", "rounds": 1, **{k: chosen[k] for k in ("network", "max_epochs", "device")}}
    if "minutes" not in store.data:
        run_recipe(
            RunRequest(
                [
                    Case(template, data.image(template), data.label(template)),
                    *(Case(scan, data.image(scan)) for scan in unlabelled),
                ],
                LabelSchema(LABELS),
                parse_options(request),
                RecipeSettings(),
                work / "runs",
            ),
            generalist=create_generalist("mind"),
            propagator=create_propagator("registration"),
            observer=Watch(data, store),
        )
        store.data["minutes"] = store.data["seconds"] / 60
        store.data["peak_mib"] = common.peak_mib()
        store.save()
    report(store.data["rounds"])
    print(f"\n{store.data['minutes']:.1f} minutes, {options.threads} threads, peak {store.data['peak_mib']:.0f} MiB")
    return 0


def report(rounds: dict[str, dict[str, Result]]) -> None:
    """Print what a cycle does to the pseudo-labels."""
    rows: list[list[object]] = []
    for number, results in sorted(rounds.items()):
        scored = list(results.values())
        single = [propagation.mean_of(scored, "dice", n) for n in range(len(LABELS))]
        what = "propagation" if number == "0" else f"cycle {number}, out of fold"
        rows.append([what, len(scored), *propagation.quality_cells(scored), *single])
    print(table(["pseudo-labels", "scans", *propagation.HEAD, *(f"Dice {name}" for name in LABELS)], rows))


if __name__ == "__main__":
    sys.exit(main())
