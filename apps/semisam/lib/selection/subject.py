"""A scan that is being scored: read once, predicted once, for all methods that want it."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from lib.core.geometry import Volume
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.propagation import SoftLabels, Template, propagate_from
from lib.specialists import SpecialistPrediction
from lib.specialists.predict_in_roi import predict_in_roi

from .judge import Asked, Judge


class Subject:
    """What the methods may ask about a scan; everything is worked out when it is first asked for.

    Args:
        asked: the scan.
        judge: what it is judged by.
    """

    def __init__(self, asked: Asked, judge: Judge) -> None:
        self.name = asked.name
        self.judge = judge
        self._asked = asked

    @cached_property
    def scan(self) -> Volume:
        """The scan."""
        return read_volume(self._asked.image)

    @cached_property
    def prediction(self) -> SpecialistPrediction | None:
        """The specialist's; None as long as there is none."""
        specialist = self.judge.specialist()
        return None if specialist is None else predict_in_roi(specialist, self.scan, lambda: self.nearest)

    @cached_property
    def propagated(self) -> SoftLabels:
        """The label carried over from the outlined scans."""
        return propagate_from(
            self.judge.templates_for(self.scan),
            self.scan,
            self.judge.basis.schema.channels,
            generalist=self.judge.generalist,
            propagator=self.judge.propagator,
        )

    @cached_property
    def nearest(self) -> Template:
        """The most similar wholly outlined scan."""
        return self.judge.templates_for(self.scan, most=1)[0]

    @cached_property
    def pseudo_label(self) -> np.ndarray:
        """The stored pseudo-label, ``[D, H, W]`` uint8."""
        assert self._asked.pseudo_label is not None
        return read_label(self._asked.pseudo_label, self.scan, self.judge.basis.schema, may_be_empty=True)

    @property
    def source(self) -> str:
        """What made the stored pseudo-label."""
        return self._asked.source
