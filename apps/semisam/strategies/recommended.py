"""``recommended``: of the scans about which the app is least sure, the one that stands for most of them."""

from __future__ import annotations

from typing_extensions import override

from lib.selection import by_uncertainty_and_coverage
from server.store.study import Study

from .base import Ranking, StudyStrategy
from .template import coverage_ranking
from .uncertainty import uncertainty_ranking
from .view import View


class Recommended(StudyStrategy):
    """With no label yet, the scan that stands for most others. Then, among those the app is least sure about, the one
    that stands for most of them.

    Uncertainty is the specialist's, or 1 - confidence of the propagation as long as there is no specialist. Scans about
    which nothing is known come last: after a training or batch infer those are the ones that cannot be used. See
    ``lib.selection.by_uncertainty_and_coverage``.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__(study, "recommended", "Recommended: the scan that helps most if it is outlined now")

    @override
    def rank(self, names: list[str], view: View) -> Ranking:
        if not view.outlined:
            return coverage_ranking(names, view, "No scan is outlined yet. ")
        uncertainties = {name: view.uncertainties[name] for name in names if name in view.uncertainties}
        if not uncertainties:
            text = "Nothing is known about pseudo-labels yet (train, or run a batch infer with 'propagate'). "
            return coverage_ranking(names, view, text)
        plain = uncertainty_ranking(names, view)
        if not view.compared:
            return plain
        order, count = by_uncertainty_and_coverage(names, uncertainties, view.covering)

        def reason(name: str) -> str:
            if name != order[0] or count == 1:
                return plain.reason(name)
            return (
                f"The app is unsure about this scan (it is among the {count} most uncertain of {len(uncertainties)}), "
                "and it resembles the other uncertain ones most."
            )

        return Ranking(order, reason, plain.facts)
