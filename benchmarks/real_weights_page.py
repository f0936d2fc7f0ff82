"""The page of `make bench-real-weights`: the table, and which targets were reached."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common import Targets, table
from official_predictor import STEP_MM

METHODS = ("official", "ours", "graph_cut")
NAMES = {"official": "official predictor", "ours": "ours with weights", "graph_cut": "ours without weights"}
VOLUMES = ("la", "hippocampus", "mscmr", "chaos_mr", "liver_ct")
CLICKS = 5
SHOWN = (1, 3, 5)

Results = Mapping[str, dict[str, Any]]
"""By set, scan, structure and method, joined by slashes: ``dice`` and ``seconds`` after each click, and ``box``."""


def rows_of(results: Results, name: str) -> dict[str, list[dict[str, Any]]]:
    """The results of a set by method, of those cases that all methods have."""
    keys = [key.rsplit("/", 1)[0] for key in results if key.startswith(f"{name}/")]
    whole = [k for k in dict.fromkeys(keys) if all(f"{k}/{method}" in results for method in METHODS)]
    return {method: [results[f"{k}/{method}"] for k in whole] for method in METHODS}


def report(results: Results, names: Sequence[str], targets: Targets) -> str:
    """The table in Markdown; the targets are stated."""
    lines: list[list[object]] = []
    for name in names:
        rows = rows_of(results, name)
        count = len(rows["ours"])
        if not count:
            continue
        for method in METHODS:
            after = [statistics.mean(r["dice"][n - 1] for r in rows[method]) for n in SHOWN]
            box = statistics.mean(r["box"] for r in rows[method])
            first = statistics.median(r["seconds"][0] for r in rows[method])
            later = statistics.median(s for r in rows[method] for s in r["seconds"][1:])
            lines.append([f"{name} ({count}), {NAMES[method]}", *after, box, first, later])
        state(name, rows, targets)
    head = ["structures", *(f"{n} click{'s' * (n > 1)}" for n in SHOWN), "true box", "first click, s", "further, s"]
    return table(head, lines)


def state(name: str, rows: dict[str, list[dict[str, Any]]], targets: Targets) -> None:
    """What these figures had to reach."""
    mean = {m: [statistics.mean(r["dice"][n] for r in rows[m]) for n in range(CLICKS)] for m in METHODS}
    with_weights, without, peer = mean["ours"], mean["graph_cut"], mean["official"]
    if name == "polyp_cvc":
        targets.expect(with_weights[4] >= 0.9, f"{name}: {with_weights[4]:.3f} after five clicks (at least 0.90)")
        worst = min(a - b for a, b in zip(with_weights, peer, strict=True))
        targets.expect(worst >= 0, f"{name}: not below the official predictor after any click ({worst:+.3f})")
    if name in VOLUMES:
        best = max(without[4], peer[4])
        targets.expect(with_weights[4] >= best, f"{name}: {with_weights[4]:.3f} after five clicks (best {best:.3f})")
        worst = min(a - b for a, b in zip(with_weights, without, strict=True))
        targets.expect(worst >= 0, f"{name}: no click is worse than without weights ({worst:+.3f})")
    if name == "la":
        targets.expect(with_weights[4] >= 0.85, f"{name}: {with_weights[4]:.3f} after five clicks (at least 0.85)")
    if name == "liver_ct":
        targets.expect(without[0] >= 0.6, f"{name}: {without[0]:.3f} without weights after one click (at least 0.60)")
        targets.expect(without[2] >= 0.85, f"{name}: {without[2]:.3f} without weights after three (at least 0.85)")


def page(tables: str, targets: Targets, missing: Sequence[str] = ()) -> str:
    """The page; ``missing`` are the sets that were not measured."""
    import machine

    goals = table(["target", "reached"], [(t, "yes" if reached else "**no**") for t, reached in targets.stated])
    return f"""# Clicks with official weights

`make bench-real-weights` wrote this page on {datetime.date.today().isoformat()}; it is not edited by hand.

Mean Dice after simulated clicks, the first at the deepest point of the structure, each further one at the deepest
point of the largest error, with MobileSAM's official weights. *Official predictor*: `SamPredictor` of
`segment_anything`, as its notebook asks it; on volumes slices about {STEP_MM:g} mm apart, those with positive clicks by
their clicks, and outwards from these each next one by the box around its neighbour's mask. *Ours*: the task `prompt`.
Seconds are processor seconds, medians (two idle cores need a half to all of that); a first click includes the encoding
of its slice. Slices that are encoded while a person looks at an answer are not counted.

{tables}
{not_measured(missing)}
## Targets

{goals}

## Machine

{table(["what", "here"], machine.describe().items())}
"""


def not_measured(names: Sequence[str]) -> str:
    """What the page says of sets that were not measured."""
    if not names:
        return ""
    listed = ", ".join(f"`{name}`" for name in names)
    return f"""
## Not measured

{listed}. Whether their targets are reached with this version, this page does not show.
"""


def worth_a_page(asked: Sequence[str], whole: Sequence[str], missing: Sequence[str], *, partial: bool) -> bool:
    """Whether a run may write the page: of all sets, or (``partial``) of those asked for, each of them whole."""
    return not missing or (partial and set(whole) == set(asked))
