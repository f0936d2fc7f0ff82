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
        super().__init__(study, "Uncertainty: map of the trained specialist's doubt, 0 to 255 (train first)")

    def answer(self, scan: Volume, asked: AskedScan, options: str) -> Answer:
        """The map."""
        prediction, params = self.predict(scan, options)
        doubt = prediction.uncertainty_map()
        np.rint(doubt.clip(0, 1, out=doubt) * 255, out=doubt)
        return Answer(doubt.astype(np.uint8), {**params, "scale": "0 sure, 255 unsure"})
