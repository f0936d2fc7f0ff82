"""What the page keeps for a study while the server runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from weakref import WeakKeyDictionary

from lib.core.cache import stamp_of
from lib.report.planes import colour_of
from server.scores.scores import Scores
from server.store.folder_store import StudyDatastore
from server.store.study import Study

from .pictures import Pictures
from .scan_rows import STATES, ScanRow, rows_of
from .study_table import Question, page_of

_ROW_SECONDS = 15.0
"""Age at which rows are made anew even though nothing seems to have changed."""
_LISTED = 10_000
"""Names of scans that are given for going on to the next one."""


class StudyPage:
    """The page of a study.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.pictures = Pictures(study)
        self._rows: tuple[object, float, list[ScanRow]] = None, 0.0, []
        self._making = threading.Lock()

    def rows(self) -> list[ScanRow]:
        """A row for each scan, made anew when something has changed."""
        store = self.study.datastore
        store.list_images()  # a DICOM server may have others now
        with self._making:
            key, made, rows = self._rows
            now = self._state()
            if now is None or key != now or time.monotonic() - made > _ROW_SECONDS:
                rows = rows_of(self.study, self.sent_back(), self.pictures.measured())
                self._rows = now, time.monotonic(), rows
            return rows

    def row(self, name: str) -> ScanRow | None:
        """The row of a scan, None when there is no such scan."""
        return next((row for row in self.rows() if row.name == name), None)

    def sent_back(self) -> Mapping[str, str]:
        """Who has sent a scan's pseudo-label back, by scan."""
        return {}

    def _state(self) -> object | None:
        """Changes when a row does, as far as that can be seen; None when it cannot."""
        store = self.study.datastore
        if not isinstance(store, StudyDatastore):
            return None
        scores = stamp_of(self.study.place / "scores.json")
        return (
            *(store.version(), scores, Scores(self.study).specialist_state(), self.study.schema.names),
            *(id(self.pictures.measured()), tuple(self.sent_back().items())),
        )

    # --- as plain types -------------------------------------------------------------------------------------------

    def table(self, asked: Question) -> dict[str, Any]:
        """A page of the table."""
        page = page_of(self.rows(), asked)
        return {
            "page": page.page,
            "pages": page.pages,
            "found": page.found,
            "counts": page.counts,
            "structures": self.structures(),
            "states": dict(STATES),
            "left_out": self.left_out(),
            "scans": [self.described(row) for row in page.rows],
            "names": list(page.names[:_LISTED]),
        }

    def structures(self) -> list[dict[str, Any]]:
        """Names, values and colours of the structures."""
        return [
            {"name": name, "value": value, "colour": "#{:02x}{:02x}{:02x}".format(*colour_of(value))}
            for name, value in self.study.schema.as_dict().items()
        ]

    def left_out(self) -> Mapping[str, str]:
        """Files that look like scans or labels and are none, with the reasons."""
        store = self.study.datastore
        return store.left_out if isinstance(store, StudyDatastore) else {}

    def described(self, row: ScanRow) -> dict[str, Any]:
        """A row, and what its picture is called."""
        return {**asdict(row), "picture": self.pictures.key(row.name)}


_PAGES: WeakKeyDictionary[Study, StudyPage] = WeakKeyDictionary()
_OPENING = threading.Lock()


def page_for(study: Study) -> StudyPage:
    """The page of a study; one for each."""
    with _OPENING:
        if study not in _PAGES:
            _PAGES[study] = StudyPage(study)
        return _PAGES[study]
