"""The page of `make bench`: all tables of a run, on what machine, and which targets were reached."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import table

_RECORD = re.compile(r"^<!-- measured: (\{.*\}) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Part:
    """What was measured at a time.

    Args:
        title: heading of the section.
        facts: template, number of scans, threads, ...
        tables: in Markdown.
        notes: sentences below the tables.
        amounts: how much was measured, such as the number of scans: a page is not replaced by one of less.
    """

    title: str
    facts: Mapping[str, object]
    tables: Sequence[str]
    notes: Sequence[str] = ()
    amounts: Mapping[str, int] = field(default_factory=dict)


def amounts_of(parts: Sequence[Part]) -> dict[str, int]:
    """How much all parts have measured."""
    return {name: amount for part in parts for name, amount in part.amounts.items()}


def render(parts: Sequence[Part], machine: Mapping[str, object], targets: Sequence[tuple[str, bool]], date: str) -> str:
    """The whole page in Markdown."""
    lines = [
        "# Measured next to peers",
        "",
        f"<!-- measured: {json.dumps(amounts_of(parts))} -->",
        "",
        f"`make bench` wrote this page on {date}; it is not edited by hand. How to repeat it, and the rules of the",
        "tables: [run the benchmarks](../how-to/benchmarks.md).",
        "",
        "## Machine",
        "",
        table(["what", "here"], machine.items()),
    ]
    for part in parts:
        lines += ["", f"## {part.title}", ""]
        lines += ["; ".join(f"{name}: {value}" for name, value in part.facts.items()) + "."]
        for text in (*part.tables, *part.notes):
            lines += ["", text]
    if targets:
        lines += ["", "## Targets", ""]
        lines += [table(["target", "reached"], [(text, "yes" if reached else "**no**") for text, reached in targets])]
    return "\n".join(lines) + "\n"


def shortfall(page: Path, parts: Sequence[Part], least: Mapping[str, int]) -> list[str]:
    """Why these parts must not become the page: what it has, or what a page needs at least, and they have less of.

    Args:
        page: the page as it is; it need not be there.
        parts: what is to be written.
        least: what a page has to have.
    """
    have = amounts_of(parts)
    needed = dict(least)
    for name, amount in _recorded(page).items():
        needed[name] = max(amount, needed.get(name, 0))
    return [f"{name}: {have.get(name, 0)} of {amount}" for name, amount in needed.items() if have.get(name, 0) < amount]


def _recorded(page: Path) -> dict[str, int]:
    found = _RECORD.search(page.read_text(encoding="utf-8")) if page.is_file() else None
    if found is None:
        return {}
    content: dict[str, int] = json.loads(found.group(1))
    return content


def write(
    page: Path, draft: Path, text: str, parts: Sequence[Part], least: Mapping[str, int], *, force: bool = False
) -> bool:
    """Write the page, or its draft with a message when the page would lose something.

    Args:
        page: where the page of the docs is.
        draft: what is measured in part goes there.
        text: the page's content.
        parts: what it was made of.
        least: see ``shortfall``.
        force: write the page whatever is missing.

    Returns:
        Whether the page itself was written.
    """
    short = shortfall(page, parts, least)
    written = force or not short
    target = page if written else draft
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    if short:
        print(f"\nLess than a whole page: {'; '.join(short)}.")
    print(f"\n{'Written' if written else f'{page.name} stays as it is (--force replaces it); written'}: {target}")
    return written
