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
WORSE = 0.003
"""Dice by which an answer with weights may fall behind the one without to count as no worse."""

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


def same_clicks(results: Results, names: Sequence[str]) -> str:
    """The table of what the clicks of the dialogues with weights would have got without, in Markdown."""
    lines: list[list[object]] = []
    for name in names:
        rows = [r for r in rows_of(results, name)["ours"] if "same_clicks" in r]
        if not rows:
            continue
        gains = [[a - b for a, b in zip(r["dice"], r["same_clicks"], strict=True)] for r in rows]
        every = [gain for each in gains for gain in each]
        worse = sum(gain < -WORSE for gain in every)
        after = [statistics.mean(each[n - 1] for each in gains) for n in SHOWN]
        lines.append(
            [f"{name} ({len(rows)})", *(f"{gain:+.4f}" for gain in after), f"{worse} of {len(every)}", min(every)]
        )
    head = ["structures", *(f"{n} click{'s' * (n > 1)}" for n in SHOWN), f"worse by over {WORSE:g}", "worst"]
    return table(head, lines) if lines else ""


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


def page(tables: str, targets: Targets, missing: Sequence[str] = (), same: str = "") -> str:
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
{after_same_clicks(same)}{not_measured(missing)}
## Targets

{goals}

## Machine

{table(["what", "here"], machine.describe().items())}
"""


def after_same_clicks(tables: str) -> str:
    """What the page says of answers to the same clicks."""
    if not tables:
        return ""
    return f"""
## With and without weights after the same clicks

Answers with and without weights differ, and so do the clicks that correct them from the second one on: in the table
above, single structures part by more than the answers do. Here the clicks are those of the dialogues with weights, and
each is also answered without: gain in Dice by the weights.

{tables}
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
