"""``recommended``: what a good colleague would pick now."""

from __future__ import annotations

from typing_extensions import override

from lib.selection import by_doubt_and_coverage
from server.store.study import Study

from .base import Ranking, StudyStrategy
from .doubt import doubt_ranking
from .template import coverage_ranking
from .view import View


class Recommended(StudyStrategy):
    """With no label yet, the scan that stands for most others. Then, among those the app is least sure about, the one
    that stands for most of them.

    Doubt is the specialist's, or 1 - confidence of the propagation as long as there is no specialist. Scans about which
    nothing is known come last: after a training or batch infer those are the ones that cannot be used. See
    ``lib.selection.by_doubt_and_coverage``.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__(study, "recommended", "Recommended: the scan that helps most if it is outlined now")

    @override
    def rank(self, names: list[str], view: View) -> Ranking:
        if not view.outlined:
            return coverage_ranking(names, view, "No scan is outlined yet. ")
        doubts = {name: view.doubts[name] for name in names if name in view.doubts}
        if not doubts:
            text = "Nothing is known about pseudo-labels yet (train, or run a batch infer with 'propagate'). "
            return coverage_ranking(names, view, text)
        plain = doubt_ranking(names, view)
        if not view.compared:
            return plain
        order, count = by_doubt_and_coverage(names, doubts, view.covering)

        def reason(name: str) -> str:
            if name != order[0] or count == 1:
                return plain.reason(name)
            return (
                f"The app is unsure about this scan (it is among the {count} most uncertain of {len(doubts)}), "
                "and it resembles the other uncertain ones most."
            )

        return Ranking(order, reason, plain.facts)
