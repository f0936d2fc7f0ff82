"""``review``: the stored label of a scan, for viewers that do not load stored labels themselves (OHIF)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.core.errors import UserError
from lib.core.geometry import Volume
from server.requests.infer_request import AskedScan
from server.scores.planes import planes_of_label
from server.scores.scores import QUALITY, Scores
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study

from .base import Answer, SegmentationTask


class Review(SegmentationTask[None]):
    """The label that propagation, batch infer or the last training round stored for the asked scan.

    Once a person has saved a ``final`` label, that one is shown. The reply names the planes that are most worth
    outlining, and how good the pseudo-label is likely to be.
    """

    makes_labels = False

    def __init__(self, study: Study) -> None:
        super().__init__(study, "Review: show the stored pseudo-label of this scan")

    def parse(self, raw: Mapping[str, Any]) -> None:
        """There are no options."""

    def answer(self, scan: Volume, asked: AskedScan, options: None) -> Answer:
        """The stored label, and what is known of it."""
        store, name = self.study.datastore, asked.name
        if name and store.get_label_by_image_id(name, FINAL):
            item = self.study.final_label(name)
            if item is not None:
                return Answer(self.study.template(item).label, {"source": "final"})
        path = store.get_label_uri(name, ORIGINAL) if name else ""
        if not name or not path or not Path(path).is_file():
            raise UserError(
                f"There is no pseudo-label of {name or 'this scan'} yet. Train, or run a batch infer with 'propagate'.",
                status=404,
            )
        info = store.get_label_info(name, ORIGINAL)
        stored = info.get("params") or {}
        label = self.study.read_stored(name, ORIGINAL, scan)
        params = {k: v for k, v in stored.items() if k not in ("latencies", "label_names", "warnings")}
        warnings = stored.get("warnings")
        params |= {"model": info.get("model", ""), "ts": info.get("ts", 0)}
        scores = Scores(self.study)
        params["planes"] = scores.planes(name) or planes_of_label(label, scan)
        quality = scores.known(QUALITY).get(name)
        if quality is not None and not scores.stale(QUALITY, name):
            params[QUALITY] = quality
        return Answer(label, params, [str(w) for w in warnings] if isinstance(warnings, list) else ())
