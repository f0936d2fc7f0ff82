"""The page itself: plain HTML by f-strings; templates of jinja2 would be as long, and are not checked by mypy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lib.core.files import write_whole

from .curves import Line, chart
from .history import Entry
from .montage import CONTOURS

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1080px;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .7rem;text-align:left;border-bottom:1px solid #eee;
vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1rem}
svg{max-width:100%;height:auto;font-size:11px}
svg .grid{stroke:#e4e4e4}svg .mark{stroke:#bbb;stroke-dasharray:3 3}
figure{margin:1rem 0;background:#000;color:#eee;padding:.6rem;border-radius:4px}figure img{max-width:100%;display:block}
figcaption{font-size:.9rem;padding:.2rem 0 .5rem}.key{display:inline-block;width:1em;height:.5em;margin:0 .3em 0 1em}
.note{background:#fff6df;padding:.5rem .8rem;border-left:4px solid #e8b100}
"""


@dataclass(frozen=True)
class Picture:
    """A case worth a look.

    Args:
        title: which one, and why it is shown.
        address: of the picture.
        shown: names of the contours in it.
    """

    title: str
    address: str
    shown: Sequence[str]


@dataclass(frozen=True)
class RoundFacts:
    """What is said about a round.

    Args:
        index: 0 for the propagation.
        agreement: mean Dice between its pseudo-labels and those of the round before, by scan name.
        confidence: mean confidence of its pseudo-labels inside the structures, by scan name.
        volume_ml: of each structure, by scan name.
    """

    index: int
    agreement: Mapping[str, float]
    confidence: Mapping[str, float]
    volume_ml: Mapping[str, Mapping[str, float]]


def write_report(
    path: Path,
    title: str,
    settings: Mapping[str, object],
    history: Sequence[Entry],
    rounds: Sequence[RoundFacts],
    *,
    pictures: Sequence[Picture],
    skipped: Mapping[str, str],
) -> None:
    """Write the page, whole or not at all; it loads nothing from anywhere.

    Args:
        path: of the HTML file.
        title: heading.
        settings: what was run with what, by name.
        history: epochs.
        rounds: in order.
        pictures: cases to show.
        skipped: why a scan was left out, by name.
    """
    body = [
        f"<h1>{escape(title)}</h1>",
        "<p class=note>Research use only. No truth of an unlabelled scan went into this page: agreement, confidence "
        "and uncertainty are the method's own view of its work.</p>",
        "<h2>Settings</h2>",
        _table(["", ""], [[key, str(value)] for key, value in settings.items()], numbers=False),
        "<h2>Learning curves</h2>",
        f'<div class="charts">{"".join(_curves(history))}</div>',
        "<h2>Pseudo-labels, round by round</h2>",
        _rounds(rounds),
        "<h2>Cases</h2>",
        *[_figure(picture) for picture in pictures],
    ]
    if not rounds:
        body.append("<p>There was no scan without a human label.</p>")
    if skipped:
        body += ["<h2>Left out</h2>", _table(["scan", "why"], [[k, v] for k, v in skipped.items()], numbers=False)]
    if rounds:
        body += ["<h2>All scans</h2>", _cases(rounds[-1])]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )
    write_whole(path, lambda name: Path(name).write_text(page, encoding="utf-8"))


def _curves(history: Sequence[Entry]) -> list[str]:
    """One chart a metric, with its name above."""
    charts = charts_of(history)
    if not charts:
        return [chart({}, "", "")]
    return [f"<div><b>{escape(metric)}</b>{drawn}</div>" for metric, drawn in charts.items()]


def charts_of(history: Sequence[Entry]) -> dict[str, str]:
    """One chart a metric, as SVG text; epochs of all rounds in a row, a line for each training of a round."""
    last: dict[int, int] = defaultdict(int)
    for entry in history:
        last[entry.round] = max(last[entry.round], entry.epoch)
    start, starts = 0, {}
    for index in sorted(last):
        starts[index] = start
        start += last[index]
    many = any(entry.training for entry in history)
    lines: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for entry in history:
        name = f"training {entry.training + 1}" if many else "all rounds"
        for metric, value in entry.metrics.items():
            lines[metric][name].append((starts[entry.round] + entry.epoch, value))
    marks = [s for s in starts.values() if s]
    charts = {}
    for metric, found in lines.items():
        shown: dict[str, Line] = {(metric if name == "all rounds" else name): line for name, line in found.items()}
        charts[metric] = chart(shown, "epoch", metric, marks)
    return charts


def _rounds(rounds: Sequence[RoundFacts]) -> str:
    rows = []
    for facts in rounds:
        rows.append(
            [
                "propagation" if facts.index == 0 else f"round {facts.index}",
                str(len(facts.confidence)),
                _spread(list(facts.agreement.values())),
                _spread(list(facts.confidence.values())),
            ]
        )
    head = ["", "pseudo-labels", "agreement with the round before (Dice: least, median, most)", "confidence"]
    points: Line = [(f.index, _mean(list(f.agreement.values()))) for f in rounds if f.agreement]
    # One point is no curve: the table says it all.
    drawn = chart({"mean agreement with the round before": points}, "round", "Dice") if len(points) > 1 else ""
    return _table(head, rows) + drawn


def _cases(facts: RoundFacts) -> str:
    rows = []
    for name in sorted(facts.confidence, key=lambda n: (facts.confidence[n], n)):
        agreement = f"{facts.agreement[name]:.3f}" if name in facts.agreement else ""
        volumes = ", ".join(f"{k} {v:.2f}" for k, v in facts.volume_ml.get(name, {}).items())
        rows.append([name, f"{facts.confidence[name]:.3f}", agreement, volumes])
    return _table(["scan, least confident first", "confidence", "agreement", "volumes in ml"], rows)


def _figure(picture: Picture) -> str:
    keys = "".join(
        f'<span class="key" style="background:rgb{CONTOURS[name]}"></span>{escape(name)}' for name in picture.shown
    )
    return (
        f"<figure><figcaption>{escape(picture.title)} {keys}</figcaption>"
        f'<img alt="{escape(picture.title)}" src="{picture.address}"></figure>'
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    kind = ' class="n"' if numbers else ""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(
        f"<tr><td>{escape(row[0])}</td>{''.join(f'<td{kind}>{escape(v)}</td>' for v in row[1:])}</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    ordered = sorted(values)
    return f"{ordered[0]:.3f}, {ordered[len(ordered) // 2]:.3f}, {ordered[-1]:.3f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
