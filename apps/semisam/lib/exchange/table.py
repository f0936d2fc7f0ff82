"""The table of an export: a line for each scan, with volumes and estimated quality."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from lib.core.files import write_whole

from .labelled import LabelledScan

FIRST = ("scan", "file", "label", "annotated", "estimated_dice", "saved", "by")
"""The columns before the volumes."""
_DIGITS = 4


def row_of(case: LabelledScan, files: Sequence[str]) -> dict[str, object]:
    """What the table says about a scan, as plain types.

    Args:
        case: the scan.
        files: those written for it; the last one is its label.
    """
    saved = datetime.fromtimestamp(case.saved, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if case.saved else ""
    return {
        "scan": case.name,
        "file": files[-1],
        "label": case.kind,
        "annotated": "all" if case.planes is None else "planes",
        "estimated_dice": None if case.quality is None else round(case.quality, _DIGITS),
        "saved": saved,
        "by": case.by,
        "volumes": case.volumes(),
    }


def write_table(path: Path, rows: Sequence[Mapping[str, object]], structures: Sequence[str]) -> None:
    """Write the rows as CSV in UTF-8, one column of ml for each structure.

    An empty cell means: not known. Of three outlined slices no volume is known.

    Args:
        path: the file; one that ends with ``.tsv`` is parted by tabs, and says ``n/a`` for what is not known.
        rows: see ``row_of``.
        structures: names of the study's structures.
    """
    tabs = path.suffix == ".tsv"

    def write(temporary: str) -> None:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t" if tabs else ",", lineterminator="\n")
            table.writerow([*FIRST, *(f"{name} ml" for name in structures)])
            for row in rows:
                volumes = row["volumes"] if isinstance(row["volumes"], Mapping) else {}
                cells = [row[name] for name in FIRST] + [_ml(volumes.get(name)) for name in structures]
                table.writerow([("n/a" if tabs else "") if cell in (None, "") else cell for cell in cells])

    write_whole(path, write)


def _ml(volume: object) -> object:
    return round(volume, _DIGITS) if isinstance(volume, (int, float)) else None
