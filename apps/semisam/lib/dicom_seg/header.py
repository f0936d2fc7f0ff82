"""What a DICOM SEG says about itself, without its pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pydicom

from .moments import moment_in
from .parts import text_in

_ANNOTATED = re.compile(r"\bannotated\s*[:=]\s*(\w+)", re.IGNORECASE)


@dataclass(frozen=True)
class SegHeader:
    """What a SEG says about itself.

    Args:
        uid: its own SOP instance UID.
        scan: UID of the series it belongs to, "" when it does not say.
        names: name and number of its segments.
        created: date and time in UTC as text that sorts by age.
        annotated: what its description says about what is annotated in it, "" when nothing: ``annotated: planes``
            anywhere in the description of its series, or in that of its content. See ``lib.core.sparse_labels``.
    """

    uid: str
    scan: str
    names: tuple[tuple[str, int], ...]
    created: str
    annotated: str = ""

    @classmethod
    def of(cls, dataset: pydicom.Dataset) -> SegHeader:
        """Read it from a SEG or its metadata."""
        referenced = dataset.get("ReferencedSeriesSequence") or []
        listed = [(text_in(s, "SegmentLabel"), int(s.SegmentNumber)) for s in dataset.get("SegmentSequence") or []]
        names = [(name, number) for name, number in listed if number > 0]  # 0 is the background of a label map
        said = [_ANNOTATED.search(text_in(dataset, name)) for name in ("SeriesDescription", "ContentDescription")]
        return cls(
            uid=text_in(dataset, "SOPInstanceUID"),
            scan=text_in(referenced[0], "SeriesInstanceUID") if referenced else "",
            names=tuple((name or f"segment {number}", number) for name, number in names),
            created=moment_in(dataset, "InstanceCreation") or moment_in(dataset, "Content"),
            annotated=next((found[1].lower() for found in said if found), ""),
        )
