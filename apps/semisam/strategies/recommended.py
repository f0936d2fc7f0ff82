"""``recommended``: what a good colleague would pick now."""

from __future__ import annotations

import math

from adapters.study import Study

from .base import Ranking, StudyStrategy
from .doubt import by_doubt
from .template import by_coverage
from .view import View

_SHARE = 0.25
"""Share of the scans, those the app is least sure about, that the choice is among."""


class Recommended(StudyStrategy):
    """With no label yet, the scan that stands for most others. Then, among those the app is least sure about, the one
    that stands for most of them.

    The most doubtful scan alone is often an odd one that teaches little about the others; so doubt first narrows the
    choice, and coverage decides, as in Yang et al., "Suggestive Annotation", MICCAI 2017
    (https://doi.org/10.1007/978-3-319-66179-7_46). Doubt is the specialist's, or 1 - confidence of the propagation as
    long as there is no specialist. Scans about which nothing is known come last: after a training or batch infer those
    are the ones that cannot be used.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__(study, "recommended", "Recommended: the scan that helps most if it is outlined now")

    def rank(self, names: list[str], view: View) -> Ranking:
        """See the base class."""
        if not view.outlined:
            return by_coverage(names, view, "No scan is outlined yet. ")
        doubts = {name: view.doubts[name] for name in names if name in view.doubts}
        if not doubts:
            text = "Nothing is known about pseudo-labels yet (train, or run a batch infer with 'propagate'). "
            return by_coverage(names, view, text)
        plain = by_doubt(names, view)
        if not view.compared:
            return plain
        count = max(1, math.ceil(_SHARE * len(doubts)))
        first = view.covering(list(plain.names[:count]))

        def reason(name: str) -> str:
            if name != first[0] or count == 1:
                return plain.reason(name)
            return (
                f"The app is unsure about it (uncertainty {doubts[name]:.2f}, among the {count} highest of "
                f"{len(doubts)}), and of these it stands for the most others."
            )

        return Ranking([*first, *plain.names[count:]], reason, plain.facts)
