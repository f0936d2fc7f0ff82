"""``uniform``: scans spread evenly over the study."""

from __future__ import annotations

from adapters.study import Study

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

    def rank(self, names: list[str], view: View) -> Ranking:
        """See the base class."""
        everyone = sorted([*view.unlabelled, *view.outlined])
        wanted = set(names)
        order = [everyone[n] for n in spread(len(everyone)) if everyone[n] in wanted]
        return Ranking(order, lambda name: "It comes next when the list of scans is gone through in even steps.")


def spread(count: int) -> list[int]:
    """The numbers 0..count-1, each as far as possible from those before it (van der Corput order)."""
    bits = max(1, count - 1).bit_length()
    order = (int(f"{n:0{bits}b}"[::-1], 2) for n in range(2**bits))
    return [n for n in order if n < count]
