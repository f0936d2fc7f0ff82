"""A scan that is being scored: read once, predicted once, for all methods that want it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from adapters.store import ORIGINAL
from adapters.study import Study
from lib.propagation import SoftLabels, Template, propagate_from
from lib.specialists import SpecialistPrediction, predict
from lib.volumes import Volume, read_label, read_volume


class Subject:
    """What the methods may ask about a scan; everything is worked out when it is first asked for.

    Args:
        study: the study.
        name: the scan.
        device: where to compute.
    """

    def __init__(self, study: Study, name: str, device: str) -> None:
        self.study = study
        self.name = name
        self._device = device

    @cached_property
    def scan(self) -> Volume:
        """The scan."""
        return read_volume(Path(self.study.datastore.get_image_uri(self.name)))

    @cached_property
    def prediction(self) -> SpecialistPrediction | None:
        """The specialist's; None as long as there is none."""
        if not self.study.published.is_file():
            return None
        return predict(self.study.specialist(self._device), self.scan)

    @cached_property
    def propagated(self) -> SoftLabels:
        """The label carried over from the outlined scans."""
        return propagate_from(
            self.study.templates_for(self.scan, without=self.name),
            self.scan,
            self.study.schema.channels,
            generalist=self.study.generalist,
            propagator=self.study.propagator,
        )

    @cached_property
    def nearest(self) -> Template:
        """The most similar wholly outlined scan."""
        return self.study.templates_for(self.scan, without=self.name, most=1)[0]

    @cached_property
    def pseudo_label(self) -> np.ndarray:
        """The stored pseudo-label, ``[D, H, W]`` uint8."""
        path = self.study.datastore.get_label_uri(self.name, ORIGINAL)
        return read_label(path, self.scan, self.study.schema, may_be_empty=True)

    @property
    def source(self) -> str:
        """What made the stored pseudo-label: ``propagation``, ``specialist``, or nothing when it does not say."""
        params = self.study.datastore.get_label_info(self.name, ORIGINAL).get("params") or {}
        return str(params.get("source") or "")
