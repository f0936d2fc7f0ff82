"""``least_confidence``, ``highest_entropy``, ``highest_entropy_ratio``: the scan with the highest uncertainty.

Each by the measure that has its name.
"""

from __future__ import annotations

from typing_extensions import override

from lib.selection import by_value
from server.scores.scores import UNCERTAINTY
from server.store.study import Study

from .base import Ranking, StudyStrategy
from .template import coverage_ranking
from .view import View

MEASURES = {
    "least_confidence": "Least confidence: the scan whose most uncertain voxels are the least certain",
    "highest_entropy": "Highest entropy: the scan with the largest mean entropy of the prediction",
    "highest_entropy_ratio": "Highest entropy ratio: the scan with the most voxels of high entropy",
}
"""Strategies of this kind and their descriptions."""


class HighestUncertainty(StudyStrategy):
    """By one measure of the scoring method ``uncertainty``; see ``lib.selection.uncertainty`` for what they mean.

    Scans that the measure is not known of come after the others, by what their pseudo-label says.

    Args:
        study: the study.
        measure: its name, which is the strategy's name too.
        description: shown in viewers.
    """

    def __init__(self, study: Study, measure: str, description: str) -> None:
        super().__init__(study, measure, description)

    @override
    def rank(self, names: list[str], view: View) -> Ranking:
        known = view.scores.known(UNCERTAINTY, self.name)
        if not any(name in known for name in names):
            advice = f"No {self.text} is known yet (scoring method 'uncertainty'). "
            return uncertainty_ranking(names, view, advice)
        order = by_value(names, known, view.uncertainties)
        scored = sum(name in known for name in names)

        def reason(name: str) -> str:
            if name not in known:
                return f"Its {self.text} is not known; all scans with a known one were offered."
            late = " It is from before the last change." if view.scores.stale(UNCERTAINTY, name) else ""
            return f"Its {self.text}, {known[name]:.3f}, is among the largest of {scored} scans.{late}"

        return Ranking(order, reason, lambda n: {self.name: known[n]} if n in known else {})

    @property
    def text(self) -> str:
        """The measure in words."""
        return self.name.replace("_", " ")


def uncertainty_ranking(names: list[str], view: View, because: str = "") -> Ranking:
    """Scans by the best guess of how unsure the app is; by coverage where there is none.

    Args:
        names: the scans.
        view: the study.
        because: why this order is used, when another one was asked for.
    """
    uncertainties = view.uncertainties
    if not any(name in uncertainties for name in names):
        return coverage_ranking(names, view, because)
    order = by_value(names, uncertainties)

    def reason(name: str) -> str:
        if name not in uncertainties:
            return because + "Nothing is known about it yet; all other scans were offered."
        return because + f"The app is among the least sure about it (uncertainty {uncertainties[name]:.2f})."

    return Ranking(order, reason, lambda n: {UNCERTAINTY: uncertainties[n]} if n in uncertainties else {})
