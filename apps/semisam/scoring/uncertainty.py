"""``uncertainty``: how unsure the specialist is about each unlabelled scan."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from adapters.scores import Scores
from adapters.study import Study
from lib.errors import UserError
from lib.propagation import propagate_from
from lib.recipes.options import choose_device
from lib.specialists import predict
from lib.uncertainty import uncertainty_facts
from lib.volumes import read_volume

logger = logging.getLogger("semisam.scoring")

_SAVE_SECONDS = 20.0
_OF_THE_SCAN = (404, 422)
"""Status of errors that will come up again until the scan itself is exchanged."""


class UncertaintyScoring(ScoringMethod):
    """Mean uncertainty in and around the structures of each scan without a final label, 0 to 1.

    From the specialist in service; as long as there is none, 1 - confidence of the propagation, which stored
    pseudo-labels know already. Scans whose score is up to date are not touched; scans that failed are tried again, but
    not unasked.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__("Uncertainty: how unsure the app is about each unlabelled scan")
        self.study = study

    def due(self) -> bool:
        """Whether there is work worth starting unasked: a specialist, and scans it has not seen.

        MONAI Label starts every scoring method at the server's start and whenever a client asks for the next scan.
        """
        return self.study.published.is_file() and bool(Scores(self.study).missing())

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score what has no score yet; returns how many were done, kept and passed over."""
        study, scores = self.study, Scores(self.study)
        if not study.published.is_file():
            study.usable()
        names = scores.missing(retry=True)
        logger.info("Uncertainty: %d scans to score", len(names))
        fresh: dict[str, float] = {}
        failed: dict[str, str] = {}
        unusable: list[str] = []
        saved_at = begun = time.monotonic()
        for number, name in enumerate(names, start=1):
            try:
                fresh[name] = self._score(name, scores, request)
            except UserError as error:
                failed[name] = str(error)
                if error.status in _OF_THE_SCAN:
                    unusable.append(name)
                logger.warning("Passed over %s: %s", name, error)
            now = time.monotonic()
            if now - saved_at > _SAVE_SECONDS or number == len(names):
                saved_at = now
                scores.put(fresh)
                scores.put_failed(unusable)
                fresh, unusable = {}, []
            left = (now - begun) / number * (len(names) - number)
            logger.info("Uncertainty: %d of %d scans. About %.0f s left", number, len(names), left)
        return {"scored": len(names) - len(failed), "failed": failed}

    def _score(self, name: str, scores: Scores, request: Mapping[str, Any]) -> float:
        study = self.study
        if study.published.is_file():
            scan = read_volume(Path(study.datastore.get_image_uri(name)))
            prediction = predict(study.specialist(choose_device(str(request.get("device") or "auto"))), scan)
            # As a training round works it out for its pseudo-labels: both stand side by side.
            return float(str(uncertainty_facts(prediction.probabilities, prediction.uncertainty)["uncertainty"]))
        known = scores.doubt_of_label(name)
        if known is not None:
            return known
        scan = read_volume(Path(study.datastore.get_image_uri(name)))
        soft = propagate_from(
            study.templates_for(scan, without=name),
            scan,
            study.schema.channels,
            generalist=study.generalist,
            propagator=study.propagator,
        )
        return 1.0 - soft.mean_confidence()
