"""``propagate``: a label after the most similar outlined scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.core.geometry import Volume
from lib.propagation import propagate_from, warnings_of
from server.options import whole_number
from server.requests.infer_request import AskedScan
from server.store.study import MOST_TEMPLATES, Study

from .base import Answer, SegmentationTask


@dataclass(frozen=True)
class PropagateOptions:
    """The task's options.

    Args:
        max_templates: how many outlined scans may be fused, at least one.
    """

    max_templates: int


class Propagate(SegmentationTask[PropagateOptions]):
    """Carries the labels of wholly outlined scans over to the asked one. Needs one ``final`` label, no training."""

    gives_probabilities = True

    def __init__(self, study: Study) -> None:
        super().__init__(
            study,
            "Propagate: label this scan after the scans you have outlined (one is enough)",
            {"max_templates": MOST_TEMPLATES},
        )

    def ready(self) -> None:
        """Raise UserError without the generalist's weights, or without an outlined scan."""
        self.study.check_generalist()
        self.study.fully_annotated()

    def parse(self, raw: Mapping[str, Any]) -> PropagateOptions:
        """Read how many outlined scans may be fused."""
        return PropagateOptions(whole_number(raw, "max_templates", MOST_TEMPLATES, 1, 20))

    def answer(self, scan: Volume, asked: AskedScan, options: PropagateOptions) -> Answer:
        """The label that the most similar outlined scans agree on."""
        study = self.study
        templates = study.templates_for(scan, without=asked.name, most=options.max_templates)
        soft = propagate_from(
            templates,
            scan,
            study.schema.channels,
            generalist=study.generalist,
            propagator=study.propagator,
        )
        label = soft.labels()
        used = [template for template in templates if template.name in soft.templates]
        return Answer(
            label,
            {
                "source": "propagation",
                "templates": list(soft.templates),
                "similarity": round(float(soft.similarity), 4),
                "confidence": round(soft.mean_confidence(), 4),
                "volume_ml": self.volumes(label, scan),
            },
            warnings_of(soft, label, scan, used, study.schema.names),
            soft.probability_map,
        )
