"""What each scoring method works out about one scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import Tensor

from lib.core.uncertainty import uncertainty_facts

from . import (
    describe,
    estimate_quality,
    opinions_on,
    planes_in_scan,
    planes_to_outline,
    reverse_dice,
    threshold_at,
    uncertainty_of,
)
from .subject import Subject

REPRESENTATIVENESS = "representativeness"
UNCERTAINTY = "uncertainty"
QUALITY = "pseudo_label_quality"


def descriptor(subject: Subject) -> Tensor:
    """The scan's descriptor ``[F]`` on the CPU, see ``lib.selection.describe``."""
    return describe(subject.scan, subject.judge.generalist).detach().cpu()


def uncertainty(subject: Subject) -> dict[str, Any]:
    """Four measures of uncertainty, 0 to 1, and the planes most worth outlining, all from one prediction.

    It is the specialist's, or the propagation's as long as there is no specialist.
    """
    if subject.prediction is not None:
        found = subject.prediction
        frame, probabilities, unsure = found.frame, found.probabilities, found.uncertainty
        # As a training round works it out for its pseudo-labels: both stand side by side.
        mean = float(str(uncertainty_facts(probabilities, unsure)["uncertainty"]))
    else:
        soft = subject.propagated
        frame, probabilities, unsure = soft.frame, soft.probabilities, 1.0 - soft.confidence
        mean = 1.0 - soft.mean_confidence()
    measures = asdict(uncertainty_of(probabilities, threshold_at(subject.judge.basis.progress)))
    planes = planes_in_scan(frame, planes_to_outline(probabilities, unsure), subject.scan.affine)
    return {UNCERTAINTY: round(mean, 5), **{k: round(v, 5) for k, v in measures.items()}, "planes": planes}


def quality(subject: Subject) -> dict[str, Any]:
    """Estimated Dice of the pseudo-label, 0 to 1: the mean, before calibration, of each structure, and its signals."""
    judge = subject.judge
    label, count = subject.pseudo_label, judge.basis.schema.count
    reverse = reverse_dice(label, subject.scan, subject.nearest, count, judge.generalist)
    soft = subject.prediction
    estimate = estimate_quality(
        label,
        subject.scan,
        count,
        opinions=opinions_on(
            label,
            count,
            propagated=None if subject.source == "propagation" else subject.propagated.labels(),
            predicted=None if soft is None else soft.labels(),
        ),
        probabilities=None if soft is None else soft.probabilities,
        humans=judge.humans,
        reverse=[reverse],
        calibration=judge.basis.calibration,
    )
    return {
        QUALITY: round(estimate.mean, 5),
        "raw": round(estimate.raw, 5),
        "dice": [round(d, 4) for d in estimate.dice],
        "signals": {name: [round(v, 4) for v in values] for name, values in estimate.signals.items()},
    }


MEASURES: dict[str, Callable[[Subject], Any]] = {
    REPRESENTATIVENESS: descriptor,
    UNCERTAINTY: uncertainty,
    QUALITY: quality,
}
"""By the name of the method: gives small facts that can be pickled, raises UserError when there are none."""
