"""What the scoring methods share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from server.scores.scores import Scores
from server.store.study import Study

from .one_pass import run_pass


class StudyScoring(ScoringMethod):
    """A method that gives each scan of the study some numbers; ``lib.scoring.MEASURES`` has how.

    Args:
        study: the study.
        description: shown in viewers.
    """

    name: str

    def __init__(self, study: Study, description: str) -> None:
        super().__init__(description)
        self.study = study
        self.scores = Scores(study)

    @abstractmethod
    def due(self) -> bool:
        """Whether there is work worth starting unasked.

        MONAI Label asks for every method at the server's start and whenever a client asks for the next scan.
        """

    @abstractmethod
    def ready(self) -> None:
        """Raise UserError when no scan at all could be scored for now."""

    @abstractmethod
    def missing(self) -> list[str]:
        """Scans that have no score of the present state, those that could not be used the last time included."""

    def needs_templates(self) -> bool:
        """Whether labels of outlined scans are carried over, forth or back."""
        return False

    @abstractmethod
    def store(self, found: Mapping[str, Any], of: Mapping[str, str]) -> None:
        """Keep what ``lib.scoring.MEASURES`` gave of some scans.

        Args:
            found: by scan.
            of: the states that these answers belong to, by scan, see ``Scores.states``.
        """

    def finish(self) -> None:
        """Called when all scans are done."""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score what has no score yet, see ``run_pass``."""
        return run_pass(self.study, [self], request)
