"""``pseudo_label_quality``: how good each stored pseudo-label is likely to be, without its truth."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from adapters.scores import QUALITY
from adapters.study import Study
from lib.errors import UserError
from lib.selection import Calibration, Shape, estimate_quality, opinions_on, reverse_dice, shapes_of

from .base import StudyScoring
from .subject import Subject

logger = logging.getLogger("semisam.scoring")

_MOST_HUMANS = 50
"""Outlined scans whose structures are compared with a pseudo-label's; each is read once a pass."""


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
        self.study.dense()

    def missing(self) -> list[str]:
        """See the base class."""
        return self.scores.missing(QUALITY, retry=True)

    def score(self, subject: Subject) -> dict[str, Any]:
        """See the base class."""
        label, count = subject.pseudo_label, self.study.schema.count
        reverse = reverse_dice(label, subject.scan, subject.nearest, count, self.study.generalist)
        soft = subject.prediction
        quality = estimate_quality(
            label,
            subject.scan,
            count,
            opinions=opinions_on(
                label,
                count,
                propagated=None if subject.source == "propagation" else subject.propagated.labels(),
                predicted=None if soft is None else soft.labels(),
            ),
            probabilities=None if soft is None else soft.probabilities,
            humans=self._humans,
            reverse=[reverse],
            calibration=self._calibration,
        )
        return {
            QUALITY: round(quality.mean, 5),
            "raw": round(quality.raw, 5),
            "dice": [round(d, 4) for d in quality.dice],
            "signals": {name: [round(v, 4) for v in values] for name, values in quality.signals.items()},
        }

    def store(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """See the base class."""
        self.scores.add(QUALITY, found)

    def finish(self) -> None:
        """The next pass looks at the human labels anew."""
        self.__dict__.pop("_humans", None)
        self.__dict__.pop("_calibration", None)

    @cached_property
    def _humans(self) -> Sequence[Sequence[Shape]]:
        found = []
        for item in self.study.dense()[:_MOST_HUMANS]:
            try:
                template = self.study.template(item)
            except UserError as error:
                logger.warning("The final label of %s is left out: %s", item.name, error)
                continue
            found.append(shapes_of(template.label, template.scan, self.study.schema.count))
        return found

    @cached_property
    def _calibration(self) -> Calibration:
        return self.scores.calibration()
