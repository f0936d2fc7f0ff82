"""Accuracy, speed and memory next to peers in one run, and the page of it in the docs.

Four parts: the propagation of one outline on left-atrium scans (``la``) and hippocampus scans (``hippocampus``), every
method on every scan in turn; our training from that outline (``specialist``) and a plain nnU-Net trained on the
outlined scan alone (``nnunet``). Peers: itk-elastix, ANTs SyN, convexadam, nnU-Net. Needs the scans in
``../shared/data`` (or ``$SEMISAM_DATA``); what is absent is left out with a message. About 35 minutes on two idle
cores.

    make bench BENCH_ARGS="--parts la --la-scans 79"

An interrupted run goes on where it was when it is started again; ``--fresh`` measures everything anew. The page is only
replaced by one that has measured as much.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import common
import machine
import methods
import one_outline
import page
import propagation
from bench_la import GRID
from common import DataSet, Targets
from one_outline import Trained
from page import Part

PARTS = ("la", "hippocampus", "specialist", "nnunet")
METHODS = ("registration", *methods.PEERS)
NAMES = {"la": "left atrium", "hippocampus": "hippocampus"}
GRIDS = {"la": GRID}
SCANS = {"la": 10, "hippocampus": 20}
PAGE = common.ROOT / "docs" / "reference" / "benchmarks-measured.md"
DRAFT = common.RESULTS / PAGE.name
LEAST = {
    **{f"{name} scans": scans for name, scans in SCANS.items()},
    "hippocampus specialist scans": 20,
    "hippocampus nnU-Net scans": 20,
    "hippocampus nnU-Net steps": 250,
}
"""How much a page must have measured."""
FASTER = {"itk-elastix": 3.0, "convexadam": 1.0, "ants-syn": 1.0}
"""How many times as fast as a peer the propagation has to be."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    common.end_on_sigterm()
    parts = common.chosen(options.parts, PARTS, "--parts")
    names = common.chosen(options.methods, (*methods.OURS, *methods.PEERS), "--methods")
    facts = {"date": time.strftime("%Y-%m-%d"), **machine.describe(), "load at the start": f"{machine.load():.1f}"}
    common.heading("Machine", facts)
    wanted = {name for name in SCANS if name in parts}
    trained = common.chosen(options.training_data, tuple(SCANS), "--training-data")
    if {"specialist", "nnunet"}.isdisjoint(parts):
        trained = []
    wanted |= set(trained)
    found = {name: common.find_dataset(name, common.STRUCTURES[name]) for name in sorted(wanted)}
    data = {name: one for name, one in found.items() if one is not None}
    targets = Targets()
    failed: list[str] = []
    made: list[Part] = []
    for name in SCANS:
        if name in parts and name in data:
            made += _propagation(data[name], getattr(options, f"{name}_scans"), names, options.fresh, targets)
    for name in trained:
        if name in data:
            sections, broken = _trainings(data[name], parts, options, targets)
            made += sections
            failed += broken
    if not made:
        return 1 if failed else 0
    text = page.render(made, facts, targets.stated, str(facts["date"]))
    page.write(options.page, DRAFT, text, made, LEAST, force=options.force)
    return 1 if failed else targets.exit_code(options.check)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma list (default: all)")
    parser.add_argument(
        "--methods", default=",".join(METHODS), help=f"of the propagation (default: {','.join(METHODS)})"
    )
    for name, scans in SCANS.items():
        parser.add_argument(
            f"--{name}-scans", type=int, default=scans, help=f"val first, then train (default: {scans})"
        )
    parser.add_argument(
        "--training-data", default="hippocampus", help="comma list of la, hippocampus (default: the latter)"
    )
    parser.add_argument("--preset", default="quick", help="of our training (default: quick)")
    parser.add_argument("--unlabelled", type=int, default=39, help="scans that our training sees besides (default: 39)")
    parser.add_argument("--epochs", type=int, default=1, help="of nnU-Net, each of 250 steps (default: 1)")
    parser.add_argument("--val-scans", type=int, help="unseen scans of the trainings (default: all of val)")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (default: 0)")
    parser.add_argument("--device", default="cpu", help="of the trainings (default: cpu)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--fresh", action="store_true", help="forget results of earlier runs")
    parser.add_argument("--page", type=Path, default=PAGE, help="file to write (default: the page in docs/reference)")
    parser.add_argument("--force", action="store_true", help="replace the page even by one that has measured less")
    return parser.parse_args(arguments)


def _propagation(data: DataSet, most: int, names: Sequence[str], fresh: bool, targets: Targets) -> list[Part]:
    """One outline carried over to scans of ``val``, then of ``train``."""
    split = data.split()
    scans = [*split["val"], *split["train"][1:]][:most]
    found = propagation.stage(data, scans, names, grid=GRIDS.get(data.name), fresh=fresh)
    if not found:
        return []
    print()
    mine = Targets()
    propagation.check_peers(found, mine, level=0.0, faster=FASTER)
    targets.stated += [(f"{NAMES[data.name]}: {text}", reached) for text, reached in mine.stated]
    # A method that is not there, or has failed, has measured nothing.
    whole = min(len(propagation.measured(found[name])) if name in found else 0 for name in METHODS)
    notes = [] if propagation.same_run(found) else ["Some methods were measured in another run: compare no times."]
    facts = {"template": split["train"][0], "scans": len(scans), "threads": common.THREADS}
    if "convexadam" in found:
        facts["grid of convexadam"] = " x ".join(map(str, GRIDS.get(data.name, ()))) or "the template's own"
    title = f"One outline carried over: {NAMES[data.name]}"
    return [Part(title, facts, propagation.tables(data, found), notes, {f"{data.name} scans": whole})]


def _trainings(
    data: DataSet, parts: Sequence[str], options: argparse.Namespace, targets: Targets
) -> tuple[list[Part], list[str]]:
    """Ours, then nnU-Net; one that fails leaves the other. Returns the section and what has failed."""
    found: dict[str, list[Trained]] = {"specialist": [], "nnunet": []}
    failed: list[str] = []
    for name, train in (("specialist", one_outline.specialist), ("nnunet", one_outline.nnunet)):
        if name not in parts:
            continue
        try:
            found[name] = train(data, options)
        except SystemExit as error:
            if not isinstance(error.code, str):
                raise  # ended from outside
            print(f"{name}: {error.code}", flush=True)
            failed.append(name)
    ours, theirs = found["specialist"], found["nnunet"]
    if not ours and not theirs:
        return [], failed
    part = one_outline.part(data, NAMES[data.name], ours, theirs, options)
    common.heading(part.title, part.facts)
    print(*part.tables, "", sep="\n")
    _check(NAMES[data.name], ours, theirs, targets)
    return [part], failed


def _check(name: str, ours: Sequence[Trained], theirs: Sequence[Trained], targets: Targets) -> None:
    if not ours:
        return
    before, after = ours
    gain = after.dice - before.dice
    targets.expect(gain > 0, f"{name}: the specialist is ahead of the propagation, in Dice: {gain:+.4f}")
    for other in theirs:
        gain = after.dice - other.dice
        targets.expect(
            gain > 0, f"{name}: the specialist is ahead of nnU-Net on the outlined scan, in Dice: {gain:+.4f}"
        )


if __name__ == "__main__":
    sys.exit(main())
