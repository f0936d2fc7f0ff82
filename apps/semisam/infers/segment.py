"""``segment``: the published specialist's label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.core.geometry import Volume
from lib.core.uncertainty import uncertainty_facts
from lib.propagation import nothing_found
from lib.recipes.engine.learned import learned_by
from lib.recipes.engine.options import choose_device
from lib.specialists import SpecialistPrediction
from lib.specialists.predict_in_roi import predict_in_roi
from server.requests.devices import device_choices
from server.requests.infer_request import AskedScan
from server.store.study import Study

from .base import Answer, SegmentationTask


class SpecialistTask(SegmentationTask[str]):
    """A task that asks the published specialist."""

    def __init__(self, study: Study, description: str) -> None:
        super().__init__(study, description, {"device": device_choices()})

    def get_path(self, validate: bool = True) -> str | None:
        """The specialist's file, for ``/model``; None when there is none and ``validate`` is set."""
        path = self.study.published
        if not validate:
            path.parent.mkdir(parents=True, exist_ok=True)
        return str(path) if path.is_file() or not validate else None

    def ready(self) -> None:
        """Raise UserError without a trained specialist."""
        self.study.need_published()

    def parse(self, raw: Mapping[str, Any]) -> str:
        """The device to compute on; some viewers send it as a list of one."""
        device = raw.get("device") or "auto"
        return choose_device(str(device[0] if isinstance(device, list) else device))

    def predict(self, scan: Volume, device: str) -> tuple[SpecialistPrediction, dict[str, Any]]:
        """What the specialist says, and what to tell about it."""
        specialist = self.study.specialist(device)
        prediction = predict_in_roi(specialist, scan, lambda: self.study.templates_for(scan, without=None, most=1)[0])
        notes = {k: v for k, v in specialist.notes.items() if isinstance(v, (str, int, float))}
        facts = uncertainty_facts(prediction.probabilities, prediction.uncertainty)
        return prediction, {"source": "specialist", **facts, **notes}


class Segment(SpecialistTask):
    """The specialist's label, by sliding window."""

    gives_probabilities = True

    def __init__(self, study: Study) -> None:
        super().__init__(study, "Segment: the trained specialist's label for this scan (train first)")

    def answer(self, scan: Volume, asked: AskedScan, options: str) -> Answer:
        """The label, with warnings about structures that were not found."""
        prediction, params = self.predict(scan, options)
        label = prediction.labels()
        warnings = nothing_found(label, self.study.schema.names, learned_by(self.study.specialist(options)))
        facts = {**params, "volume_ml": self.volumes(label, scan)}
        return Answer(label, facts, warnings, prediction.probability_map)
