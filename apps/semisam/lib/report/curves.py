"""Line charts as SVG text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
_WIDTH, _HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 40

Line = Sequence[tuple[float, float]]
"""Points (x, y), x ascending; points that are no numbers are left out."""


def chart(lines: Mapping[str, Line], x_name: str, y_name: str, marks: Sequence[float] = ()) -> str:
    """A chart of all lines with axes, ticks and a legend.

    Args:
        lines: by name.
        x_name: what the x axis shows.
        y_name: what the y axis shows.
        marks: x values of vertical lines, where a new round begins.

    Returns:
        An ``<svg>`` element; a short paragraph when there is nothing to draw.
    """
    clean = {name: [p for p in line if all(math.isfinite(v) for v in p)] for name, line in lines.items()}
    clean = {name: line for name, line in clean.items() if line}
    if not clean:
        return "<p>Nothing was recorded.</p>"
    xs = [x for line in clean.values() for x, _ in line]
    ys = [y for line in clean.values() for _, y in line]
    x_low, x_high = _range(xs)
    y_low, y_high = _range(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        up = (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return _LEFT + across, _HEIGHT - _BOTTOM - up

    legend = 16 * len(clean) + 6
    box = f'width="{_WIDTH}" viewBox="0 0 {_WIDTH} {_HEIGHT + legend}"'
    parts = [f'<svg {box} role="img" aria-label="{escape(y_name)}">']
    for value in _ticks(y_low, y_high):
        x, y = place(x_low, value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x - 5:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for value in _ticks(x_low, x_high, 1.0 if all(x == round(x) for x in xs) else 0.0):  # there is no epoch 1.5
        x, y = place(value, y_low)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{value:g}</text>')
    for mark in marks:
        x, y = place(mark, y_low)
        parts.append(f'<line class="mark" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{y:.1f}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
    for number, (name, line) in enumerate(clean.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [place(x, y) for x, y in line]
        if len(points) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
        if len(points) <= 30:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        row = _HEIGHT + 10 + 16 * number
        parts.append(f'<rect x="{_LEFT}" y="{row - 8}" width="18" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 24}" y="{row - 1}">{escape(name)}</text>')
    parts.append("</svg>")
    return "".join(parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) * 0.1 or 0.5
        return low - room, high + room
    return low, high


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """About five round numbers from ``low`` to ``high``, at least ``least`` apart."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    for factor in (1, 2, 5, 10):
        if (high - low) / (step * factor) <= 6:
            step *= factor
            break
    step = max(step, least)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
