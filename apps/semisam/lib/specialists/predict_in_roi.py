"""A specialist's answer for a scan; if it works on a region of interest only, that is found first."""

from __future__ import annotations

from collections.abc import Callable

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.propagation import Template, find_roi

from . import Specialist, SpecialistPrediction, predict, roi_of


def predict_in_roi(specialist: Specialist, scan: Volume, nearest: Callable[[], Template]) -> SpecialistPrediction:
    """Segment a scan; where only a part of it matters, an outlined scan says where that is.

    To go through the whole scan instead would take long, and find structures in places like theirs.

    Args:
        specialist: the specialist.
        scan: the scan, of any orientation, spacing, size and intensity scale.
        nearest: gives the outlined scan that is most similar, or raises UserError; asked only when it is needed.

    Raises:
        UserError: as ``nearest`` does; (422) when no place like that of the outlined structures is found.
    """
    if specialist.spec.part is None:
        return predict(specialist, scan)
    template = nearest()
    found = find_roi(template, scan, str(next(specialist.members[0].parameters()).device))
    inside = found.traces()
    if not bool(inside.any()):
        raise UserError(
            f"No place like that of the structures outlined in {template.name} is found in this scan. If it shows "
            "them, outline it and train again.",
            status=422,
        )
    return predict(specialist, scan, part=roi_of(frame_of(scan), inside, found.frame, specialist.spec))
