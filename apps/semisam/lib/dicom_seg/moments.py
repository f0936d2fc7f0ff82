"""Dates and times of SEG objects, compared across time zones.

DICOM writes local time, and its zone only if somebody has thought of it (Timezone Offset From UTC, PS3.3 C.12.1.1.8).
Of SEG objects without a zone, most that reach this app come from OHIF, which writes UTC.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo

import pydicom

from .parts import text_in

_UTC = timezone.utc
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")
_DAY, _TIME = re.compile(r"\d{8}"), re.compile(r"(\d{2})(\d{2})?(\d{2})?(?:\.(\d+))?")
_OF_A_SEG = ("InstanceCreation", "Content", "Series")


def zone_in(dataset: pydicom.Dataset) -> tzinfo | None:
    """The time zone that an object names, None when it names none."""
    found = _OFFSET.fullmatch(text_in(dataset, "TimezoneOffsetFromUTC"))
    if found is None:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-offset if found[1] == "-" else offset) if offset < timedelta(days=1) else None


def moment_in(dataset: pydicom.Dataset, what: str) -> str:
    """A moment in UTC as text that sorts by age; "" when there is none.

    Args:
        dataset: the object; without a time zone its times are taken for UTC.
        what: the moment, as ``Content`` for ContentDate and ContentTime.
    """
    day = text_in(dataset, f"{what}Date").replace(".", "").replace("-", "")
    clock = _TIME.fullmatch(text_in(dataset, f"{what}Time").replace(":", "")) or _TIME.fullmatch("00")
    if not _DAY.fullmatch(day) or clock is None:
        return ""
    hour, minute, second, part = clock.groups()
    try:
        date = datetime.strptime(day, "%Y%m%d")
        # 60 is a leap second.
        date = date.replace(hour=int(hour), minute=int(minute or 0), second=min(59, int(second or 0)))
    except ValueError:
        return ""
    moment = date.replace(microsecond=int((part or "")[:6].ljust(6, "0")), tzinfo=zone_in(dataset) or _UTC)
    try:
        return moment.astimezone(_UTC).strftime("%Y%m%d%H%M%S.%f")
    except OverflowError:  # before the year 1
        return ""


def stamp(seg: pydicom.Dataset, zone: tzinfo | None) -> None:
    """Say in a SEG that it was made now, to the microsecond, which tells two quick saves apart.

    Args:
        seg: the SEG.
        zone: in which its scan's times are, None for that of this machine.
    """
    now = datetime.now(_UTC).astimezone(zone)
    seg.TimezoneOffsetFromUTC = now.strftime("%z")[:5]
    for what in _OF_A_SEG:
        setattr(seg, f"{what}Date", now.strftime("%Y%m%d"))
        setattr(seg, f"{what}Time", now.strftime("%H%M%S.%f"))
