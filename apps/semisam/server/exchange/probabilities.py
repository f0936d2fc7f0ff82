"""What the specialist in service says of scans that are exported: the probability of each structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lib.core.cache import stamp_of
from lib.core.geometry import Volume
from lib.exchange import Candidate, LabelledScan
from lib.recipes.engine.options import choose_device
from lib.specialists.predict_in_roi import predict_in_roi
from server.store.study import Study


def with_probabilities(study: Study, candidate: Candidate) -> Candidate:
    """A candidate that also gives its probabilities; it counts as changed when there is another specialist."""

    def load() -> LabelledScan:
        found = candidate.load()
        return replace(found, probabilities=lambda: _probabilities(study, found.scan))

    specialist = list(stamp_of(study.published))
    return replace(candidate, stamp={**candidate.stamp, "specialist": specialist}, load=load)


def _probabilities(study: Study, scan: Volume) -> Iterator[np.ndarray]:
    """Of each structure in order, ``[D, H, W]`` float32 in 0..1 on the scan's grid.

    Raises:
        UserError: see ``predict_in_roi``.
    """
    specialist = study.specialist(choose_device("auto"))
    prediction = predict_in_roi(specialist, scan, lambda: study.templates_for(scan, without=None, most=1)[0])
    for value in study.schema.as_dict().values():
        yield prediction.probability_map(value)
