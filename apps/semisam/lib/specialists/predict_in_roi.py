"""A specialist's answer for any scan, also of a specialist that works on a part of it."""

from __future__ import annotations

from collections.abc import Callable

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.propagation import Template, locate

from . import Specialist, SpecialistPrediction, part_of, predict


def predict_located(specialist: Specialist, scan: Volume, nearest: Callable[[], Template]) -> SpecialistPrediction:
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
    found = locate(template, scan, str(next(specialist.members[0].parameters()).device))
    inside = found.traces()
    if not bool(inside.any()):
        raise UserError(
            f"No place like that of the structures outlined in {template.name} is found in this scan. If it shows "
            "them, outline it and train again.",
            status=422,
        )
    return predict(specialist, scan, part=part_of(frame_of(scan), inside, found.frame, specialist.spec))
