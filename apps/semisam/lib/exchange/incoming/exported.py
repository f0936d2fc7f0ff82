"""What the table of one of our own exports says about a file in it."""

from __future__ import annotations

import csv
from pathlib import Path

from lib.core.sparse_labels import ANNOTATED, Annotated

from .base import guessed

_TABLE = "labels.csv"
_COLUMNS = ("file", "scan", "label", "annotated")
_MOST_ABOVE = 4
"""How many folders above a file its table may lie: that of BIDS derivatives is above subject, session and ``anat``."""


class Exports:
    """The tables of exports, each read once."""

    def __init__(self) -> None:
        self._tables: dict[Path, dict[str, tuple[str, str, str]]] = {}

    def said_of(self, file: Path, otherwise: str) -> tuple[str, Annotated]:
        """The name of a file's scan, and what is annotated in it, as a table says.

        Args:
            file: the label's.
            otherwise: name of the scan where no table has the file; its look then says what is annotated.

        Raises:
            UserError: (422) when the table calls it a pseudo-label.
        """
        for place in list(file.parents)[:_MOST_ABOVE]:
            found = self._table(place).get(file.relative_to(place).as_posix())
            if found is not None:
                if found[1] == "pseudo-label":
                    raise guessed()
                return found[0], next((each for each in ANNOTATED if each == found[2]), "auto")
        return otherwise, "auto"

    def _table(self, folder: Path) -> dict[str, tuple[str, str, str]]:
        """Scan, whose label it is, and what is annotated in it, by file; empty without a table."""
        if folder not in self._tables:
            try:
                with (folder / _TABLE).open(encoding="utf-8", newline="") as file:
                    rows = [[row.get(key) or "" for key in _COLUMNS] for row in csv.DictReader(file)]
            except (OSError, UnicodeDecodeError, csv.Error):
                rows = []
            self._tables[folder] = {name: (scan, kind, said) for name, scan, kind, said in rows if name and scan}
        return self._tables[folder]
