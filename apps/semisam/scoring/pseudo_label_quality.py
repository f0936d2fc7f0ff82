"""``pseudo_label_quality``: how good each stored pseudo-label is likely to be, without its truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

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
        """With a specialist, and pseudo-labels that were not judged yet."""
        return self.study.published.is_file() and bool(self.scores.missing(QUALITY))

    @override
    def ready(self) -> None:
        self.study.check_generalist()
        self.study.fully_annotated()

    @override
    def needs_templates(self) -> bool:
        return True

    @override
    def missing(self) -> list[str]:
        return self.scores.missing(QUALITY, retry=True)

    @override
    def store(self, found: Mapping[str, Mapping[str, Any]], of: Mapping[str, str]) -> None:
        self.scores.add(QUALITY, found, of)
