"""``uncertainty``: how unsure the specialist is about each unlabelled scan, and where a person should look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from lib.specialists import read_spec
from server.scores.scores import UNCERTAINTY
from server.store.study import Study

from .base import StudyScoring


class UncertaintyScoring(StudyScoring):
    """Four measures of uncertainty of each scan without a final label, 0 to 1, and the planes most worth outlining.

    ``uncertainty`` is the mean in and around the structures; the three others are those of FM-ABS (section 2.3). All
    are from one prediction: the specialist's, or the propagation's as long as there is no specialist.

    Args:
        study: the study.
    """

    name = UNCERTAINTY

    def __init__(self, study: Study) -> None:
        super().__init__(study, "Uncertainty: how unsure the app is about each unlabelled scan")

    def due(self) -> bool:
        """With a specialist, and scans it has not seen."""
        return self.study.published.is_file() and bool(self.scores.missing(UNCERTAINTY))

    @override
    def ready(self) -> None:
        if self.needs_templates():
            self.study.check_generalist()
            self.study.fully_annotated()

    @override
    def needs_templates(self) -> bool:
        if not self.study.published.is_file():
            return True
        # Where it works on a part of a scan, an outlined scan says where that is.
        return read_spec(self.study.need_published()).part is not None

    @override
    def missing(self) -> list[str]:
        return self.scores.missing(UNCERTAINTY, retry=True)

    @override
    def store(self, found: Mapping[str, Mapping[str, Any]], of: Mapping[str, str]) -> None:
        self.scores.add(UNCERTAINTY, found, of)
