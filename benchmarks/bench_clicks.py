"""Clicks without weights: Dice and seconds after 1, 2, ... simulated clicks, on real scans.

The first click lies at the deepest point of the structure, each further one at the deepest point of the largest error,
positive or negative as needed. Nothing is tuned to a scan. The method's few weights were chosen on eleven scans of
``hippocampus`` and seven of ``la`` (train, counted from 0: 10 to 17 and 20 to 22, 10 to 13 and 20 to 22), which are not
among those measured here, the smoothing of borders on six more of each (train 1, 5, 14, 25, 30, 35 of ``la``, 30 to 35
of ``hippocampus``), on the last three scans of ``mscmr`` and two of ``chaos_mr``, on phantoms of balls and one
liver CT.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

import common
from common import DataSet, Targets, heading, table

os.environ.update(common.limit_threads())

DATA = {"la": ("left_atrium",), "hippocampus": ("hippocampus",)}
SCANS = 10
SHOWN = (1, 2, 3, 5, 7, 10)
DICE_AT_5 = 0.70
SECONDS = 2.0


def chosen_scans(data: DataSet) -> list[str]:
    """Ten scans: the validation scans, filled up with the last ones of train."""
    split = data.split()
    own = split["val"][:SCANS]
    return own + split["train"][len(split["train"]) - (SCANS - len(own)) :]


def click_through(data: DataSet, scan: str, clicks: int) -> list[tuple[float, float]]:
    """Dice and seconds after each click; all labels of the data set joined to one structure."""
    import numpy as np

    from lib.core.metrics import overlap
    from lib.formats.volumes import read_volume
    from lib.prompting import Clicks, GraphCut, OpenScan
    from simulated_clicks import next_click

    start = time.perf_counter()
    volume = read_volume(data.image(scan))
    truth = read_volume(data.label(scan)).array > 0
    opened = OpenScan(volume, GraphCut())
    reading = time.perf_counter() - start
    found = np.zeros_like(truth)
    places: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
    rows: list[tuple[float, float]] = []
    for number in range(clicks):
        click = next_click(found, truth, volume.spacing)
        if click is not None:
            places[click[1]].append(click[0])
        start = time.perf_counter()
        inside, outside = (np.array(places[k], dtype=float).reshape(-1, 3) for k in (True, False))
        found = opened.segment(Clicks(inside, outside))
        seconds = time.perf_counter() - start + (reading if number == 0 else 0.0)
        rows.append((overlap(found, truth)[0], seconds))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clicks", type=int, default=max(SHOWN), help="clicks a scan (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    if options.clicks < 5:
        parser.error("--clicks: the target is stated for five clicks; give 5 or more")

    import torch

    torch.set_num_threads(common.THREADS)
    targets = Targets()
    present = []
    for name, labels in DATA.items():
        try:
            present.append(common.open_dataset(name, labels))
        except SystemExit:
            continue  # the message is printed
    for data in present:
        scans = chosen_scans(data)
        heading(f"Clicks on {data.name}", {"scans": len(scans), "threads": common.THREADS, "method": "graph_cut"})
        results = {scan: click_through(data, scan, options.clicks) for scan in scans}
        shown = [n for n in SHOWN if n <= options.clicks]
        rows: list[list[object]] = [[scan, *[results[scan][n - 1][0] for n in shown]] for scan in scans]
        rows.append(["mean", *[statistics.mean(results[s][n - 1][0] for s in scans) for n in shown]])
        rows.append(["least", *[min(results[s][n - 1][0] for s in scans) for n in shown]])
        rows.append(["seconds, mean", *[statistics.mean(results[s][n - 1][1] for s in scans) for n in shown]])
        rows.append(["seconds, most", *[max(results[s][n - 1][1] for s in scans) for n in shown]])
        print(table(["Dice after clicks", *map(str, shown)], rows) + "\n", flush=True)
        mean = statistics.mean(results[s][4][0] for s in scans)
        slowest = max(seconds for s in scans for _, seconds in results[s][1:])
        targets.expect(mean >= DICE_AT_5, f"{data.name}: mean Dice after 5 clicks {mean:.3f} (at least {DICE_AT_5})")
        targets.expect(slowest <= SECONDS, f"{data.name}: slowest later click {slowest:.2f} s (at most {SECONDS:g})")
    return targets.exit_code(options.check)


if __name__ == "__main__":
    sys.exit(main())
