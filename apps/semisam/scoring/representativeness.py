"""``representativeness``: how well each scan stands for the study. Needs no label and no training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from typing_extensions import override

from lib.core.errors import UserError
from lib.selection import representativeness
from server.scores.descriptors import Descriptors
from server.scores.scores import REPRESENTATIVENESS
from server.store.study import Study

from .base import StudyScoring


class Representativeness(StudyScoring):
    """Mean similarity of each scan to the others, in the feature space of the generalist, 0 to 1.

    Scans are described once; what is compared are the descriptors. Outlined scans are described too: the next scan
    should be unlike them.

    Args:
        study: the study.
    """

    name = REPRESENTATIVENESS

    def __init__(self, study: Study) -> None:
        super().__init__(study, "Representativeness: how well a scan stands for the study")
        self._descriptors = Descriptors(study)

    def due(self) -> bool:
        """Whenever there are scans that were never looked at, and something to compare."""
        names = set(self.study.datastore.list_images())
        if len(names) < 2 or not self.study.unlabelled() or not self._can_describe():
            return False
        missing = (
            set(self._descriptors.missing()) - set(self.scores.unusable()) - self.scores.failed(REPRESENTATIVENESS)
        )
        if missing:
            return True
        described = set(self._descriptors.read().names)
        return described != set(self.scores.known(REPRESENTATIVENESS)) & names or not described <= names

    @override
    def ready(self) -> None:
        self.study.check_generalist()

    @override
    def missing(self) -> list[str]:
        return self._descriptors.missing()

    @override
    def store(self, found: Mapping[str, Tensor], of: Mapping[str, str]) -> None:
        self._descriptors.put(found, of)

    def finish(self) -> None:
        """Compare all scans of the study; a scan that came or went changes the others' values."""
        table = self._descriptors.read()
        if set(table.names) - set(self.study.datastore.list_images()):
            table = self._descriptors.put({})
        if not table.names:
            return
        values = [round(float(v), 5) for v in representativeness(table.values)]
        fresh = dict(zip(table.names, values, strict=True))
        if fresh != self.scores.known(REPRESENTATIVENESS):
            of = dict(zip(table.names, table.stamps, strict=True))
            self.scores.add(REPRESENTATIVENESS, {name: {REPRESENTATIVENESS: v} for name, v in fresh.items()}, of)

    def _can_describe(self) -> bool:
        try:
            self.study.check_generalist()
        except UserError:
            return False
        return True
