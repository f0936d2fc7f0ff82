"""``template``: the scan to outline first, or next, to become a template: it stands for most others."""

from __future__ import annotations

from typing_extensions import override

from server.store.study import Study

from .base import Ranking, StudyStrategy
from .view import View


class Template(StudyStrategy):
    """Scans that cover the study best together with those outlined already (greedy facility location).

    Needs no label and no model, only a look at each scan (scoring method ``representativeness``). Before that has
    happened, the scans go by name.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        text = "Template: the scan to outline first, or next, to become a template (it resembles most others)"
        super().__init__(study, "template", text)

    @override
    def rank(self, names: list[str], view: View) -> Ranking:
        return coverage_ranking(names, view)


def coverage_ranking(names: list[str], view: View, because: str = "") -> Ranking:
    """Scans by how much they add to the outlined ones.

    Args:
        names: the scans.
        view: the study.
        because: why this order is used, when another one was asked for.
    """
    if not view.compared:
        text = "The scans have not been compared yet (scoring method 'representativeness'), so they go by name."
        return Ranking(sorted(names), lambda name: because + text)
    order = view.covering(names)
    others = "of the study" if not view.outlined else "that no outlined scan stands for yet"

    def reason(name: str) -> str:
        if name not in view.typical:
            return because + "It was not looked at yet; all others were offered before."
        value = f"(representativeness {view.typical[name]:.2f})"
        if name != order[0]:
            return because + f"It is typical of the study {value}, and not like those that were offered last."
        return because + f"It stands for the most scans {others} {value}."

    def facts(name: str) -> dict[str, float]:
        return {"representativeness": view.typical[name]} if name in view.typical else {}

    return Ranking(order, reason, facts)
