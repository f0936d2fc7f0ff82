"""An estimate of a pseudo-label's Dice without its truth, from what is on hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lib.core.geometry import Volume
from lib.core.metrics import mean_dice, overlap

from .calibration import IDENTITY, Calibration
from .region import around_structures
from .shapes import Shape, plausibility, shapes_of

_GATES = {"shape": math.exp(-2.0), "reverse": 0.4}
"""Below these values a signal lowers the estimate in proportion: two standard deviations off in shape, or a reverse
propagation that fails. Above, neither tells better labels from worse ones on real scans, and a matching that goes wrong
often goes wrong both ways; but both notice labels that are wrong altogether, on which all may agree.

Tried on hippocampus and left out, by rank correlation with the true Dice (agreement: 0.62): flips, shifts, noise, zoom
and contrast of the input 0.1 to 0.3, the label of the most similar scan carried over 0.4, edges at the border 0.3."""
_CERTAINTY_POWER = 0.75
"""Networks are less sure than they are good at borders: brings the certainty to the scale of a Dice."""
_NOTHING_KNOWN = 0.5
_SAME = 0.99
"""Dice from which on a prediction is the pseudo-label itself, but for rounding."""


@dataclass(frozen=True)
class Quality:
    """The estimate.

    Args:
        mean: estimated mean Dice of the structures, 0..1, calibrated.
        dice: estimated Dice of each structure 1..N, 0..1, calibrated likewise.
        raw: ``mean`` before calibration: what a ``Calibration`` is fitted on.
        signals: what it is made of, by name: ``agreement`` with other labels of the scan (the product of their Dice),
            ``certainty`` of the prediction, ``reverse`` propagation, ``shape`` compared with human labels; one value
            0..1 a structure, larger = better. Only what was on hand.
    """

    mean: float
    dice: tuple[float, ...]
    raw: float
    signals: Mapping[str, tuple[float, ...]]


def estimate_quality(
    label: np.ndarray,
    scan: Volume,
    count: int,
    *,
    opinions: Sequence[np.ndarray] = (),
    probabilities: Tensor | None = None,
    humans: Sequence[Sequence[Shape]] = (),
    reverse: Sequence[Sequence[float]] = (),
    calibration: Calibration = IDENTITY,
) -> Quality:
    """Estimate the Dice of a pseudo-label. No truth of an unlabelled scan goes in.

    Each structure gets the mean of agreement and certainty, whichever are on hand; less when its shape is far from the
    human labels', or the reverse propagation fails. Estimates from different sets of signals should not be compared
    closely.

    Args:
        label: the pseudo-label ``[D, H, W]`` on the scan's grid, values 0..count.
        scan: the scan it belongs to.
        count: number of structures.
        opinions: other labels ``[D, H, W]`` of the same scan, see ``opinions_on``.
        probabilities: ``[1 + N, d, h, w]`` soft prediction of the scan, on any grid.
        humans: ``shapes_of`` each human label of the study.
        reverse: ``reverse_dice`` for one or more outlined scans.
        calibration: from raw estimates to Dice.

    Returns:
        The estimate; 0.5 when there is nothing to go by.
    """
    values = range(1, count + 1)
    signals: dict[str, tuple[float, ...]] = {}
    if opinions:
        # The product, not the mean: what one corrects and another has elsewhere are errors of their own.
        signals["agreement"] = tuple(
            math.prod(overlap(label == v, other == v)[0] for other in opinions) for v in values
        )
    if probabilities is not None:
        signals["certainty"] = certainty(probabilities)
    if reverse:
        signals["reverse"] = tuple(max(dice[v - 1] for dice in reverse) for v in values)
    if humans:
        own = shapes_of(label, scan, count)
        signals["shape"] = tuple(plausibility(own[v - 1], [shapes[v - 1] for shapes in humans]) for v in values)
    raws = [_join({name: signal[v - 1] for name, signal in signals.items()}) for v in values]
    raw = sum(raws) / count
    return Quality(calibration(raw), tuple(calibration(r) for r in raws), raw, signals)


def opinions_on(
    label: np.ndarray, count: int, *, propagated: np.ndarray | None, predicted: np.ndarray | None
) -> list[np.ndarray]:
    """Who may judge a pseudo-label: what has made it agrees with it, which says nothing.

    The specialist's prediction counts also for a label that a training has made from it and corrected: how much was
    corrected tells about as much as the propagation does.

    Args:
        label: the pseudo-label ``[D, H, W]``.
        count: number of structures.
        propagated: the propagated label, None when it is what the pseudo-label is.
        predicted: what the specialist says, None when there is none.
    """
    found = [] if propagated is None else [propagated]
    if predicted is not None and mean_dice(predicted, label, count) < _SAME:
        found.append(predicted)
    return found


def certainty(probabilities: Tensor) -> tuple[float, ...]:
    """The Dice that each structure of a prediction has by its own probabilities, 0..1.

    If these were true, ``2 sum(p m) / (sum(p) + sum(m))`` would be about the Dice of the predicted mask m. Counted in
    and around the structures: tiny probabilities all over a scan add up, but mean nothing.

    Args:
        probabilities: ``[1 + N, D, H, W]``, background first.
    """
    labels, around = probabilities.max(0).indices, around_structures(probabilities)
    found = []
    for value in range(1, probabilities.shape[0]):
        mask, own = (labels == value)[around], probabilities[value][around].float()
        if bool(mask.any()):
            found.append(float(2 * own[mask].sum() / (own.sum() + mask.sum())))
        else:  # a missing structure is as certain as it is unlikely at its likeliest place
            found.append(1.0 - float(own.max()))
    return tuple(min(1.0, max(0.0, value)) for value in found)


def _join(signals: Mapping[str, float]) -> float:
    """One structure's estimate from its signals."""
    parts = []
    if "agreement" in signals:
        parts.append(signals["agreement"])
    if "certainty" in signals:
        parts.append(signals["certainty"] ** _CERTAINTY_POWER)
    estimate = sum(parts) / len(parts) if parts else signals.get("reverse", _NOTHING_KNOWN)
    for name, least in _GATES.items():
        estimate *= min(1.0, signals.get(name, 1.0) / least)
    return estimate
