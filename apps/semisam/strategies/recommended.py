"""``recommended``: the unlabelled scan the app is least sure about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from adapters.scores import Scores
from adapters.study import Study


class Recommended(Strategy):
    """Before the first final label, the first scan by name; then the one with the highest uncertainty.

    The uncertainty is the specialist's, or 1 - confidence of the propagation as long as there is no specialist. Scans
    about which nothing is known yet come last: after a training or batch infer those are the ones that cannot be read.
    Equal scans go by name, so that the answer is always the same.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__("Recommended: the scan the app is least sure about")
        self.study = study

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """The id of the scan, nothing when all scans have a final label."""
        names = self.study.unlabelled()
        if not names:
            return {}
        doubts = Scores(self.study).doubts()
        best = min(names, key=lambda name: (-doubts.get(name, -1.0), name))
        return {"id": best, "uncertainty": doubts[best]} if best in doubts else {"id": best}
