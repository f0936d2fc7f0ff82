"""``uncertainty``: how unsure the specialist is about each unlabelled scan, and where a person should look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from adapters.scores import UNCERTAINTY
from adapters.study import Study
from lib.selection import doubt_of, planes_in_scan, planes_to_outline, threshold_at
from lib.uncertainty import uncertainty_facts

from .base import StudyScoring
from .subject import Subject


class UncertaintyScoring(StudyScoring):
    """Four measures of doubt of each scan without a final label, 0 to 1, and the planes most worth outlining.

    ``uncertainty`` is the mean in and around the structures; the three others are those of FM-ABS (section 2.3). All
    are from one prediction: the specialist's, or the propagation's as long as there is no specialist.

    Args:
        study: the study.
    """

    name = UNCERTAINTY

    def __init__(self, study: Study) -> None:
        super().__init__(study, "Uncertainty: how unsure the app is about each unlabelled scan")

    def due(self) -> bool:
        """See the base class: with a specialist, and scans it has not seen."""
        return self.study.published.is_file() and bool(self.scores.missing(UNCERTAINTY))

    def ready(self) -> None:
        """See the base class."""
        if not self.study.published.is_file():
            self.study.check_generalist()
            self.study.dense()

    def missing(self) -> list[str]:
        """See the base class."""
        return self.scores.missing(UNCERTAINTY, retry=True)

    def score(self, subject: Subject) -> dict[str, Any]:
        """See the base class."""
        if subject.prediction is not None:
            found = subject.prediction
            frame, probabilities, doubt = found.frame, found.probabilities, found.uncertainty
            # As a training round works it out for its pseudo-labels: both stand side by side.
            mean = float(str(uncertainty_facts(probabilities, doubt)["uncertainty"]))
        else:
            soft = subject.propagated
            frame, probabilities, doubt = soft.frame, soft.probabilities, 1.0 - soft.confidence
            mean = 1.0 - soft.mean_confidence()
        measures = asdict(doubt_of(probabilities, threshold_at(self._progress())))
        planes = planes_in_scan(frame, planes_to_outline(probabilities, doubt), subject.scan.affine)
        return {UNCERTAINTY: round(mean, 5), **{k: round(v, 5) for k, v in measures.items()}, "planes": planes}

    def store(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """See the base class."""
        self.scores.add(UNCERTAINTY, found)

    def _progress(self) -> float:
        """How far the annotation of the study is, 0 to 1."""
        total = len(self.study.datastore.list_images())
        return 1.0 - len(self.study.unlabelled()) / max(1, total)
