"""What the page keeps for a study while the server runs."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lib.core.cache import stamp_of
from lib.core.errors import UserError
from server.palette import as_text, colour_of
from server.scores.scores import Scores
from server.store.folder_store import FINAL, ORIGINAL, StudyDatastore
from server.store.study import Study

from .acts import Acts
from .first_steps import next_step
from .layers import MADE, SCAN, STORED, Infer, Layers
from .pictures import Pictures
from .scan_rows import STATES, ScanRow, origin_of, rows_of
from .study_table import Question, counts_of, page_of
from .work import Work

_ROW_SECONDS = 60.0
"""Age at which rows are made anew even though nothing seems to have changed."""
_PAUSE = 5.0
"""How many times as long as rows took the next ones are waited for."""
_LISTED = 10_000
"""Names of scans that are given for going on to the next one."""


@dataclass(frozen=True)
class _Rows:
    """Rows, the state that they were made in, when, and how long that took."""

    state: object = None
    made: float = -1e9
    took: float = 0.0
    rows: list[ScanRow] = field(default_factory=list)


class StudyPage:
    """The page of a study.

    Args:
        study: the study.
        infer: answers an infer request, as MONAI Label's app does.
        work: the jobs.

    Attributes:
        pictures: of the scans.
        acts: of the readers.
        layers: the slices of single scans.
        work: the jobs.
    """

    def __init__(self, study: Study, infer: Infer, work: Work) -> None:
        self.study = study
        self.pictures = Pictures(study)
        self.acts = Acts(study)
        self.layers = Layers(study, infer)
        self.work = work
        self._rows = _Rows()
        self._making = threading.Lock()

    def rows(self, *, fresh: bool = False) -> list[ScanRow]:
        """A row for each scan, made anew when something has changed.

        Args:
            fresh: now, however little time has passed. Else the rows of a large study, in which something changes all
                the time, take no more than a part of the server's time.
        """
        store = self.study.datastore
        store.list_images()  # a DICOM server may have others now
        with self._making:
            known = self._rows
            now, age = self._state(), time.monotonic() - known.made
            changed = now is None or known.state != now
            if age > _ROW_SECONDS or (changed and (fresh or age > _PAUSE * known.took)):
                begun = time.monotonic()
                rows = rows_of(self.study, self.acts.sent_back(), self.pictures.measured(), self.pictures.faults())
                ended = time.monotonic()
                self._rows = known = _Rows(now, ended, ended - begun, rows)
            return known.rows

    def row(self, name: str) -> ScanRow | None:
        """The row of a scan as it is now, None when there is no such scan."""
        return next((row for row in self.rows(fresh=True) if row.name == name), None)

    def _state(self) -> object | None:
        """Changes when a row does, as far as that can be seen; None when it cannot."""
        store = self.study.datastore
        if not isinstance(store, StudyDatastore):
            return None
        scores = stamp_of(self.study.place / "scores.json")
        return (
            *(store.version(), scores, Scores(self.study).specialist_state(), self.study.schema.names),
            *(self.pictures.stamp(), self.acts.stamp()),
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

    def next_step(self) -> dict[str, str]:
        """What to do next, see ``first_steps``."""
        return next_step(self.study, counts_of(self.rows()))

    def suggestion(self, found: Mapping[str, str]) -> dict[str, str]:
        """A scan that a strategy names, and what people call it."""
        row = self.row(found.get("scan", ""))
        return {} if row is None else {"scan": row.name, "title": row.title, "reason": found.get("reason", "")}

    def structures(self) -> list[dict[str, Any]]:
        """Names, values and colours of the structures."""
        return [
            {"name": name, "value": value, "colour": as_text(colour_of(name, value))}
            for name, value in self.study.schema.as_dict().items()
        ]

    def left_out(self) -> Mapping[str, str]:
        """Files that look like scans or labels and are none, with the reasons."""
        store = self.study.datastore
        return store.left_out if isinstance(store, StudyDatastore) else {}

    def described(self, row: ScanRow) -> dict[str, Any]:
        """A row, and what its picture is called."""
        return {**asdict(row), "picture": self.pictures.key(row.name)}

    def scan(self, row: ScanRow) -> dict[str, Any]:
        """All there is to say about one scan: what ``described`` says, its planes and layers, and its history."""
        name, shown = row.name, self.layers.scan(row.name)
        looked = shown.looked
        tag = next((each for each in STORED if self.layers.key(name, each) is not None), None)
        middle = looked.middle(self._first_layer(name, tag))
        planes = {
            plane: {
                "count": looked.count(plane),
                "size": looked.size(plane),
                "pixel": looked.pixel(plane),
                "middle": middle[plane],
            }
            for plane in looked.planes
        }
        keys = {layer: self.layers.key(name, layer) for layer in (SCAN, *STORED, *MADE)}
        return {
            **self.described(row),
            "structures": self.structures(),
            "states": dict(STATES),
            "planes": planes,
            "layers": {layer: _short(key) for layer, key in keys.items() if key is not None},
            "slope": shown.slope,
            "intercept": shown.intercept,
            "window": shown.window,
            "span": shown.span,
            "version": self.acts.version(name, ORIGINAL),
            "acts": [{"act": act.act, "by": act.by, "at": act.at} for act in self.acts.of(name)[:50]],
            "can_undo": self._undoable(name),
            "history": self._history(name),
        }

    def _history(self, name: str) -> list[dict[str, Any]]:
        """The labels that a scan has had, as far as that is known, the newest first."""
        store = self.study.datastore
        if not isinstance(store, StudyDatastore):
            return []
        known = [(facts, tag) for tag in (FINAL, ORIGINAL) for facts in store.label_history(name, tag)]
        titles = {row.name: row.title for row in self.rows()}
        told = [{"words": origin_of(facts, tag, titles)[1], "saved": facts.saved} for facts, tag in known]
        return sorted(told, key=lambda each: -int(str(each["saved"])))

    def _first_layer(self, name: str, layer: str | None) -> np.ndarray | None:
        """The label by which the first slices are chosen; a scan is shown without one that cannot be used."""
        try:
            return None if layer is None else self.layers.layer(name, layer)
        except UserError:
            return None

    def _undoable(self, name: str) -> str:
        """Who can take back what was done last to a scan; empty for nobody."""
        act = self.acts.standing().get(name)
        if act is None or (act.act == "accept" and self.acts.version(name, FINAL) != act.final):
            return ""
        return act.by


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


_OPENED: list[StudyPage] = []
_OPENING = threading.Lock()


def page_for(study: Study, make: Callable[[], StudyPage]) -> StudyPage:
    """The page of a study, which is kept until another study is asked for.

    Args:
        study: the study.
        make: makes it.
    """
    with _OPENING:
        if not _OPENED or _OPENED[0].study is not study:
            _OPENED[:] = [make()]
        return _OPENED[0]
