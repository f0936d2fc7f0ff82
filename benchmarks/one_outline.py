"""One outlined scan and a training: our specialist and a plain nnU-Net, on the same scans that neither has seen."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import nnunet_alone
import propagation
import training
from common import DataSet, Store, table
from page import Part
from propagation import Result

HEAD = ("outlined", "unlabelled", "steps", "minutes", "peak MiB", "val scans", *propagation.HEAD, "s/scan median")

NOTE = """\
`minutes` are the whole training as a user waits for it: ours with the propagation to the unlabelled scans and the
labels made between rounds, nnU-Net's with its planning, preprocessing and validation curve. nnU-Net sees the outlined
scan only. `s/scan` of ours is an answer of the server; of nnU-Net, from the scan in memory to its label map."""


@dataclass(frozen=True)
class Trained:
    """A line of the table.

    Args:
        name: what was trained.
        unlabelled: further scans that it has seen, without an outline; None where nothing is trained.
        steps: optimiser steps.
        minutes: of the whole training.
        peak_mib: most memory of the training's processes.
        val: results on the scans it has not seen.
    """

    name: str
    unlabelled: int | None
    steps: int | None
    minutes: float | None
    peak_mib: float | None
    val: Sequence[Result]

    @property
    def dice(self) -> float:
        """Mean Dice over scans."""
        return statistics.fmean(propagation.scan_dice(result) for result in self.val)

    def row(self) -> list[object]:
        """The cells under ``HEAD``."""
        cost = [self.unlabelled, self.steps, self.minutes, None if self.peak_mib is None else f"{self.peak_mib:.0f}"]
        seconds = statistics.median(result["seconds"] for result in self.val)
        return [self.name, 1, *cost, len(self.val), *propagation.quality_cells(self.val), seconds]


def specialist(data: DataSet, options: argparse.Namespace) -> list[Trained]:
    """Our product through its server: what it propagates, and what it has trained on that; see ``training.stage``."""
    from lib.recipes import RecipeOptions
    from lib.recipes.choices import budget_of, trainings_of

    outcome = training.stage(data, _training_options(data, options))
    asked = RecipeOptions(preset=options.preset)
    budget = budget_of(asked)
    steps = budget.rounds * trainings_of(asked) * budget.epochs * budget.iterations
    name = f"semisam_o1, preset {options.preset}"
    cost = (outcome.unlabelled, steps, outcome.seconds / 60, outcome.peak_mib)
    return [
        Trained("propagation alone", None, None, None, None, outcome.val["propagate"]),
        Trained(name, *cost, outcome.val["segment"]),
    ]


def _training_options(data: DataSet, options: argparse.Namespace) -> argparse.Namespace:
    """All options of the stage: its defaults, but for those that this benchmark has itself."""
    parser = argparse.ArgumentParser()
    conf = [f"labels={','.join(data.labels)}"]
    training.add_options(parser, preset=options.preset, conf=conf, limit_minutes=180, ablation=False)
    found = parser.parse_args([])
    for name in ("seed", "device", "val_scans", "fresh"):
        setattr(found, name, getattr(options, name))
    found.scans = options.unlabelled
    return found


def nnunet(data: DataSet, options: argparse.Namespace) -> list[Trained]:
    """A plain nnU-Net in a process of its own; nothing when it is not installed."""
    command = [sys.executable, str(Path(__file__).with_name("nnunet_alone.py")), "--data", data.name]
    for name in ("epochs", "device", "seed", "val_scans"):
        value = getattr(options, name)
        command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    command += ["--fresh"] if options.fresh else []
    if subprocess.run(command, env=common.limit_threads(), check=False).returncode:
        raise SystemExit("The training of nnU-Net failed; its messages are above.")
    store = Store(nnunet_alone.folder_of(data.name, options.epochs, options.device, options.seed) / "results.json")
    if "training" not in store.data:
        return []
    done = store.data["training"]
    val = [store.data["val"][scan] for scan in data.split()["val"][: options.val_scans]]
    return [Trained(f"nnU-Net, {done['trainer']}", 0, done["steps"], done["seconds"] / 60, done["peak_mib"], val)]


def part(
    data: DataSet, name: str, ours: Sequence[Trained], theirs: Sequence[Trained], options: argparse.Namespace
) -> Part:
    """The section of the page."""
    rows = [one.row() for one in (*ours, *theirs)]
    facts = {
        "template": data.split()["train"][0],
        "threads": common.THREADS,
        "device": options.device,
        "seed": options.seed,
    }
    amounts = {f"{data.name} specialist scans": len(ours[-1].val)} if ours else {}
    if theirs:
        amounts |= {
            f"{data.name} nnU-Net scans": len(theirs[-1].val),
            f"{data.name} nnU-Net steps": theirs[-1].steps or 0,
        }
    return Part(f"One outline and a training: {name}", facts, [table(["training", *HEAD], rows)], [NOTE], amounts)
