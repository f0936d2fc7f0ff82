"""``uncertainty``: where the published specialist is unsure."""

from __future__ import annotations

import numpy as np

from lib.core.geometry import Volume
from server.requests.infer_request import AskedScan
from server.store.study import Study

from .base import Answer
from .segment import SpecialistTask


class Uncertainty(SpecialistTask):
    """A map from 0 (sure) to 255 (as unsure as can be). No label: it cannot be stored as one."""

    makes_labels = False
    gives_structures = False

    def __init__(self, study: Study) -> None:
        super().__init__(study, "Uncertainty: map of how unsure the trained specialist is, 0 to 255 (train first)")

    def answer(self, scan: Volume, asked: AskedScan, options: str) -> Answer:
        """The map."""
        prediction, params = self.predict(scan, options)
        values = prediction.uncertainty_map()
        np.rint(values.clip(0, 1, out=values) * 255, out=values)
        return Answer(values.astype(np.uint8), {**params, "scale": "0 sure, 255 unsure"})
