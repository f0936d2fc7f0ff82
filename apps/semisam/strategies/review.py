"""``review``: the worst pseudo-label first."""

from __future__ import annotations

from typing_extensions import override

from lib.selection import worst_label_first
from server.scores.scores import QUALITY
from server.store.study import Study

from .base import Ranking, StudyStrategy
from .uncertainty import uncertainty_ranking
from .view import View


class Review(StudyStrategy):
    """By the estimated Dice of the stored pseudo-labels (scoring method ``pseudo_label_quality``), the lowest first.

    Pseudo-labels that were not judged yet come next, the most uncertain first; scans without one come last.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__(study, "review", "Review: the pseudo-label that is probably the worst")

    @override
    def rank(self, names: list[str], view: View) -> Ranking:
        labelled = {name for name in names if view.has_pseudo_label(name)}
        if not labelled:
            text = "No scan that is free has a pseudo-label to review (train, or run a batch infer). "
            return uncertainty_ranking(names, view, text)
        known = {n: v for n, v in view.scores.known(QUALITY).items() if n in labelled}
        if not known:
            text = "The pseudo-labels were not judged yet (scoring method 'pseudo_label_quality'). "
            plain = uncertainty_ranking(sorted(labelled), view, text)
            return Ranking([*plain.names, *sorted(set(names) - labelled)], plain.reason, plain.facts)
        order = worst_label_first(names, known, labelled, view.uncertainties)

        def reason(name: str) -> str:
            if name not in known:
                what = "Its pseudo-label was not judged yet" if name in labelled else "It has no pseudo-label"
                return f"{what}; all judged ones were offered."
            late = " The estimate is from before the last change." if view.scores.stale(QUALITY, name) else ""
            return f"Its pseudo-label is among the worst of {len(known)}: estimated Dice {known[name]:.2f}.{late}"

        return Ranking(order, reason, lambda n: {QUALITY: known[n]} if n in known else {})
