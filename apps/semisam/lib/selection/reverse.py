"""Reverse classification: a good pseudo-label, carried back to an outlined scan, meets the human label there.

Valindria et al., "Reverse Classification Accuracy: Predicting Segmentation Performance in the Absence of Ground
Truth", IEEE TMI 2017, https://doi.org/10.1109/TMI.2017.2665165
"""

from __future__ import annotations

import numpy as np

from lib.core.geometry import Volume
from lib.core.metrics import overlap
from lib.generalists import Generalist, describing
from lib.propagation import Template
from lib.propagation.registration import RegistrationPropagator

_VOXELS, _ITERATIONS = 20_000, 40
"""Enough to tell a good label from a bad one; about half a second a scan."""


def reverse_dice(
    label: np.ndarray, scan: Volume, outlined: Template, count: int, generalist: Generalist
) -> tuple[float, ...]:
    """Carry a pseudo-label back to an outlined scan and compare it with the human label there.

    Args:
        label: the pseudo-label ``[D, H, W]`` on the scan's grid.
        scan: its scan.
        outlined: a scan with its human label (dense); the most similar one tells most.
        count: number of structures.
        generalist: gives the features to match.

    Returns:
        Dice of each structure 1..count, 0..1.

    Raises:
        UserError: (422) when a scan is too small for the matching.
    """
    # Made here, not at import, when nobody should ask for a GPU yet.
    cheap = RegistrationPropagator(voxels=_VOXELS, iterations=_ITERATIONS, closing=0)
    features = describing(generalist, flat=scan.flat)
    back = cheap.propagate(Template("", scan, label), outlined.scan, count + 1, features).labels()
    return tuple(overlap(back == value, outlined.label == value)[0] for value in range(1, count + 1))
