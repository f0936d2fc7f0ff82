"""``propagate``: a label after the most similar outlined scans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.core.geometry import Volume
from lib.propagation import propagate_from, warnings_about
from server.options import whole_number
from server.store.study import MOST_TEMPLATES, Study

from .base import Answer, SegmentationTask


class Propagate(SegmentationTask):
    """Carries the labels of wholly outlined scans over to the asked one. Needs one ``final`` label, no training."""

    def __init__(self, study: Study) -> None:
        super().__init__(
            study,
            "Propagate: label this scan after the scans you have outlined (one is enough)",
            {"max_templates": MOST_TEMPLATES},
        )

    def ready(self) -> None:
        """See the base class."""
        self.study.check_generalist()
        self.study.dense()

    def check(self, request: Mapping[str, Any]) -> None:
        """See the base class."""
        super().check(request)
        _most(request)

    def answer(self, scan: Volume, name: str | None, request: Mapping[str, Any]) -> Answer:
        """See the base class."""
        study = self.study
        most = _most(request)
        templates = study.templates_for(scan, without=name, most=most)
        soft = propagate_from(
            templates,
            scan,
            study.schema.channels,
            generalist=study.generalist,
            propagator=study.propagator,
            most=most,
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
            warnings_about(label, scan, used, study.schema.names, soft.similarity),
        )


def _most(request: Mapping[str, Any]) -> int:
    """How many outlined scans may be fused."""
    return whole_number(request, "max_templates", MOST_TEMPLATES, 1, 20)
