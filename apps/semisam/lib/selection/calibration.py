"""From raw estimates of Dice to Dice, learnt from scans for which both are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_PAIRS = 8
"""Human-labelled scans from which on a calibration is fitted."""
_MOST_KNOTS_SHARE = 4
"""Pairs to one knot, at least: fewer would follow single scans."""


@dataclass(frozen=True)
class Calibration:
    """A monotone, piecewise linear map of estimates; without knots the identity.

    Order is never changed, only how large the numbers are. Beyond the knots it goes on to 0 and 1.

    Args:
        knots: estimates, rising.
        values: Dice at the knots, never falling.
    """

    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    @classmethod
    def fit(cls, estimates: Sequence[float], dice: Sequence[float]) -> Calibration:
        """Fit on scans that had a pseudo-label, or would have had one, and have a human label now.

        Isotonic regression (pool adjacent violators) on means of neighbouring pairs.

        Args:
            estimates: ``Quality.raw`` of the pseudo-labels, worked out without the scan's own human label.
            dice: their mean Dice against the human labels.

        Returns:
            The identity for fewer than ``LEAST_PAIRS`` pairs.

        Raises:
            ValueError: when the numbers of estimates and Dice differ.
        """
        pairs = [(e, d) for e, d in zip(estimates, dice, strict=True) if math.isfinite(e) and math.isfinite(d)]
        if len(pairs) < LEAST_PAIRS:
            return cls()
        pairs.sort()
        bins = np.array_split(np.array(pairs), max(2, len(pairs) // _MOST_KNOTS_SHARE))
        blocks: list[tuple[float, float, int]] = []  # mean estimate, mean Dice, pairs
        for part in bins:
            blocks.append((float(part[:, 0].mean()), float(part[:, 1].mean()), len(part)))
            while len(blocks) > 1 and (blocks[-1][1] <= blocks[-2][1] or blocks[-1][0] - blocks[-2][0] < 1e-6):
                (x1, y1, n1), (x2, y2, n2) = blocks.pop(-2), blocks.pop()
                total = n1 + n2
                blocks.append(((x1 * n1 + x2 * n2) / total, (y1 * n1 + y2 * n2) / total, total))
        return cls(tuple(x for x, _, _ in blocks), tuple(y for _, y, _ in blocks))

    def __call__(self, estimate: float) -> float:
        """The calibrated value, 0..1."""
        estimate = min(1.0, max(0.0, estimate))
        if not self.knots:
            return estimate
        x = [-1e-9, *self.knots, 1.0 + 1e-9]
        y = [0.0, *self.values, 1.0]
        return float(np.interp(estimate, x, y))


IDENTITY = Calibration()
