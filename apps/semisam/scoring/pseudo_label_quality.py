"""``pseudo_label_quality``: how good each stored pseudo-label is likely to be, without its truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.scores.scores import QUALITY
from server.store.study import Study

from .base import StudyScoring


class PseudoLabelQuality(StudyScoring):
    """Estimated mean Dice of each pseudo-label, 0 to 1: where other methods agree with it, it is likely to be good.

    Args:
        study: the study.
    """

    name = QUALITY

    def __init__(self, study: Study) -> None:
        super().__init__(study, "Pseudo-label quality: estimated Dice of each stored pseudo-label")

    def due(self) -> bool:
        """See the base class: with a specialist, and pseudo-labels that were not judged yet."""
        return self.study.published.is_file() and bool(self.scores.missing(QUALITY))

    def ready(self) -> None:
        """See the base class."""
        self.study.check_generalist()
        self.study.fully_annotated()

    def needs_templates(self) -> bool:
        """See the base class."""
        return True

    def missing(self) -> list[str]:
        """See the base class."""
        return self.scores.missing(QUALITY, retry=True)

    def store(self, found: Mapping[str, Mapping[str, Any]], of: Mapping[str, str]) -> None:
        """See the base class."""
        self.scores.add(QUALITY, found, of)
