"""What all benchmarks share: where data and results are, tables, results that survive an interruption, targets.

Nothing of the app and no torch is imported here, so that a method's process holds only what the method needs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "apps" / "semisam"
RESULTS = ROOT / ".bench"
THREADS = 2
"""CPU threads that every method gets."""
STRUCTURES = {"la": ("left_atrium",), "hippocampus": ("anterior", "posterior")}
"""Names of the structures 1..N in each data set."""

sys.path[:0] = [str(APP), str(ROOT / "tests" / "support")]


def limit_threads(threads: int = THREADS) -> dict[str, str]:
    """Environment in which numerical libraries use so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    return {**os.environ, **{name: str(threads) for name in names}, "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class DataSet:
    """Scans with their truth.

    Args:
        name: folder name.
        folder: holds ``images``, ``labels`` and ``split.json``.
        labels: names of the structures 1..N.
    """

    name: str
    folder: Path
    labels: tuple[str, ...]

    def split(self) -> dict[str, list[str]]:
        """Scan names of ``train`` and ``val``; the first of ``train`` is the template."""
        content: dict[str, list[str]] = json.loads((self.folder / "split.json").read_text(encoding="utf-8"))
        return content

    def image(self, scan: str) -> Path:
        return self.folder / "images" / f"{scan}.nii.gz"

    def label(self, scan: str) -> Path:
        return self.folder / "labels" / f"{scan}.nii.gz"

    def further(self, scan: str) -> Sequence[Path]:
        """Files of a scan's further channels; none as a rule."""
        return ()


def find_dataset(name: str, labels: Sequence[str]) -> DataSet | None:
    """The data set, or None with a message when it is not there.

    It is looked for in the folder that ``SEMISAM_DATA`` names, else in ``../shared/data`` beside the project.
    """
    folder = Path(os.environ.get("SEMISAM_DATA") or ROOT.parent / "shared" / "data") / name
    if not (folder / "split.json").is_file():
        print(f"Skipped: the {name} scans are not there ({folder}). Set SEMISAM_DATA to the folder that holds {name}/.")
        return None
    return DataSet(name=name, folder=folder, labels=tuple(labels))


def open_dataset(name: str, labels: Sequence[str]) -> DataSet:
    """As ``find_dataset``, but the program ends (exit code 0) when it is not there."""
    found = find_dataset(name, labels)
    if found is None:
        raise SystemExit(0)
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are aligned right."""
    body = [[cell(value) for value in row] for row in rows]
    widths = [max(len(line[n]) for line in [list(head), *body]) for n in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if n == 0 else c.rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if n == 0 else "-" * (w + 1) + ":" for n, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, body)])


def cell(value: object) -> str:
    """A value as it stands in a table: four significant digits, ``-`` for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


class Store:
    """A JSON object in a file, written whole after each change, so that an interrupted run goes on where it was."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self.data: dict[str, Any] = {}
        if not fresh and path.is_file():
            self.data = json.loads(path.read_text(encoding="utf-8"))

    def save(self) -> None:
        write_json(self.path, self.data)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file in one step; the results' folder keeps itself out of version control."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_relative_to(RESULTS) and not (RESULTS / ".gitignore").exists():
        (RESULTS / ".gitignore").write_text("*\n", encoding="utf-8")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def fingerprint(paths: Iterable[Path], *extra: str) -> str:
    """Short hash of files (folders are walked for Python files) and texts: results of other code are not reused."""
    digest = hashlib.sha256("\0".join(extra).encode())
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def peak_mib(process: int | str = "self") -> float:
    """Most memory a process (by id; default: this one) has held so far, in MiB; 0 when it is gone.

    On Linux ``ru_maxrss`` also counts what the *parent* held when it started this process, so the kernel's own mark for
    the program is read where there is one.
    """
    try:
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    if process != "self":
        return 0.0
    scale = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


@dataclass
class Targets:
    """Figures that have to be reached; ``--check`` makes the run fail when one is not.

    Args:
        stated: every target, and whether it was reached.
    """

    stated: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def missed(self) -> list[str]:
        """The targets that were not reached."""
        return [text for text, reached in self.stated if not reached]

    def expect(self, reached: bool, text: str) -> None:
        """State a target and whether it was reached."""
        print(f"{'reached' if reached else 'MISSED '}  {text}")
        self.stated.append((text, reached))

    def exit_code(self, check: bool) -> int:
        """1 when something is checked and was missed, else 0."""
        return 1 if check and self.missed else 0


def add_stage_options(parser: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    """The options that all benchmarks have."""
    parser.add_argument("--stages", default=",".join(stages), help="comma list (default: all)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--fresh", action="store_true", help="forget results of earlier runs")


def end_on_sigterm() -> None:
    """End like after Ctrl-C when somebody ends the program, so that a server it has started ends too."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def chosen(text: str, allowed: Sequence[str], what: str) -> list[str]:
    """The names of a comma list.

    Raises:
        SystemExit: when one of them is not allowed.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in allowed]
    if unknown or not names:
        raise SystemExit(f"{what}: {', '.join(unknown) or 'nothing chosen'}; allowed: {', '.join(allowed)}")
    return names


def key_values(pairs: Sequence[str], what: str) -> dict[str, str]:
    """``["a=1", "b=x"]`` as a dict.

    Raises:
        SystemExit: when a pair has no ``=``.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark:
            raise SystemExit(f"{what}: write NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def heading(text: str, facts: Mapping[str, object] | None = None) -> None:
    """Print a Markdown heading and a line of facts below it."""
    print(f"\n## {text}\n", flush=True)
    if facts:
        print("; ".join(f"{name}: {value}" for name, value in facts.items()) + "\n", flush=True)
