"""A specialist's answer for any scan, also of a specialist that works on a part of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .errors import UserError
from .frames import frame_of
from .propagation import Template, locate
from .specialists import Specialist, SpecialistPrediction, part_of, predict
from .volumes import Volume

log = logging.getLogger(__name__)


def predict_located(specialist: Specialist, scan: Volume, nearest: Callable[[], Template]) -> SpecialistPrediction:
    """Segment a scan; where only a part of it matters, an outlined scan says where that is.

    Args:
        specialist: the specialist.
        scan: the scan, of any orientation, spacing, size and intensity scale.
        nearest: gives the outlined scan that is most similar; asked only when it is needed. Without one (UserError)
            the whole scan is gone through, and structures may be found in places like theirs.
    """
    if specialist.spec.part is None:
        return predict(specialist, scan)
    try:
        template = nearest()
    except UserError as error:
        log.warning("no outlined scan says where to look, so the whole scan is gone through: %s", error)
        return predict(specialist, scan)
    found = locate(template, scan)
    return predict(specialist, scan, part=part_of(frame_of(scan), found.inside(), found.frame, specialist.spec))
