"""``uniform``: scans spread evenly over the study."""

from __future__ import annotations

from typing_extensions import override

from lib.selection import evenly
from server.store.study import Study

from .base import Ranking, StudyStrategy
from .view import View


class Uniform(StudyStrategy):
    """Walks through the study in ever finer steps: start, middle, quarters, eighths, ...

    Neighbours by name are often of one patient or one day; after n answers no part of the list is left out.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__(study, "uniform", "Uniform: scans spread evenly over the study, by name")

    @override
    def rank(self, names: list[str], view: View) -> Ranking:
        wanted = set(names)
        order = [name for name in evenly(sorted([*view.unlabelled, *view.outlined])) if name in wanted]
        return Ranking(order, lambda name: "It comes next when the list of scans is gone through in even steps.")
