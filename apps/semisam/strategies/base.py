"""What the strategies share: nobody gets a scan that somebody has just got, and the reply says why."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.core.errors import UserError
from lib.selection import pick
from server.scores.offered import SECONDS, Offer, OfferedScans
from server.store.empty_study import emptiness
from server.store.study import Study

from .view import View

_HOURS = SECONDS // 3600


@dataclass(frozen=True)
class Ranking:
    """Scans in the order of a strategy.

    Args:
        names: the most wanted first.
        reason: for a scan's name, why it is offered, in one sentence.
        facts: for a scan's name, the numbers behind it.
    """

    names: Sequence[str]
    reason: Callable[[str], str]
    facts: Callable[[str], Mapping[str, float]] = lambda name: {}


class StudyStrategy(Strategy):
    """Offers a scan without a final label; never an error because a score is missing.

    Scans whose pseudo-label a person has sent back come first. A scan that was offered is held back for two hours, or
    until its label is saved: whoever asks again has skipped it, and whoever else asks gets another one. When all were
    offered, the one that was offered longest ago comes again, the asking person's own first. Scans that cannot be read
    come last.

    Args:
        study: the study.
        name: of the strategy.
        description: shown in viewers.
        offered: the offers.
    """

    def __init__(self, study: Study, name: str, description: str, offered: OfferedScans | None = None) -> None:
        super().__init__(description)
        self.study = study
        self.name = name
        self.offered = OfferedScans(study) if offered is None else offered

    @abstractmethod
    def rank(self, names: list[str], view: View) -> Ranking:
        """Put scans in order.

        Args:
            names: scans that may be offered, by name; at least one.
            view: the study.
        """

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """The scan (``id``), the ``reason``, the ``planes`` most worth outlining; nothing when all scans are done.

        Raises:
            UserError: (404) when the study has no scans.
        """
        client = str(request.get("client_id") or "")
        with self.offered.choosing():
            marks = self.offered.marks()
            view = View(self.study, [*reversed(marks)])
            if not view.unlabelled:
                if text := emptiness(self.study):
                    raise UserError(text, status=404)
                return {}
            name, ranking = self._choose(view, marks, client)
            self.offered.mark(name, client, self.name)
        planes = view.planes(name) if name not in view.unusable else None
        facts = {key: round(float(value), 5) for key, value in ranking.facts(name).items()}
        return {"id": name, "reason": ranking.reason(name), **facts, **({"planes": planes} if planes else {})}

    def suggest(self) -> dict[str, str]:
        """The scan (``scan``) and the ``reason``, without offering it to anybody; nothing when all scans are done."""
        view = View(self.study, [])
        if not view.unlabelled:
            return {}
        name, ranking = self._choose(view, {}, "")
        return {"scan": name, "reason": ranking.reason(name)}

    def _choose(self, view: View, marks: Mapping[str, Offer], client: str) -> tuple[str, Ranking]:
        free = [n for n in view.unlabelled if n not in marks and n not in view.unusable]
        back = [n for n in view.sent_back if n in free and view.readable(n)]
        if back:  # a person has looked at it: that goes before any guess
            return back[0], Ranking(back, lambda n: f"{view.sent_back[n]} has sent its pseudo-label back.")
        while free:
            ranking = self.rank(free, view)
            name = pick(ranking.names, view.descriptors, self.offered.recent())
            if view.readable(name):
                return name, ranking
            free = [n for n in free if n != name]
        again = [n for n in marks if n in view.unlabelled and n not in view.unusable]
        if again:
            ordered = sorted(again, key=lambda n: marks[n].client != client)
            facts = self.rank(ordered, view).facts
            return ordered[0], Ranking(ordered, lambda n: _offered_again(marks[n], client), facts)
        broken = [n for n in view.unlabelled if n not in marks] or view.unlabelled
        return broken[0], Ranking(broken, lambda n: f"Only scans that cannot be read are left: {view.unusable.get(n)}")


def _offered_again(mark: Offer, client: str) -> str:
    whose = "to you" if mark.client == client else f"to {mark.client or 'somebody else'}, who may be at work on it"
    return f"All scans without a final label were offered in the last {_HOURS} hours; this one longest ago, {whose}."
