"""Names of scans as names of files and of BIDS subjects: without odd characters, and never the same one twice."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_ODD = re.compile(r"[^A-Za-z0-9_.-]+")
_MOST = 80
_DIGEST = 8
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9+]+)")
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(1, 10))])
"""Names that no file may have on Windows."""


def file_names(names: Collection[str]) -> dict[str, str]:
    """A file name without suffix for each scan.

    A name of plain characters stays as it is. Any other gets a digest of the whole name, and so do names that some
    file systems cannot tell apart (``A`` and ``a``). What a name becomes does not depend on the order.

    Args:
        names: of all scans of the study, whether they are exported or not: the same scan has the same name in each
            export.
    """
    lower = Counter(name.lower() for name in names)
    return {name: _plain(name) if lower[name.lower()] == 1 else _with_digest(name) for name in names}


def _plain(name: str) -> str:
    good = not _ODD.search(name) and len(name) <= _MOST and name[0].isalnum() and name[-1] != "."
    return name if good and name.partition(".")[0].lower() not in _RESERVED else _with_digest(name)


def _with_digest(name: str) -> str:
    kept = _ODD.sub("-", name).strip("-_.")[: _MOST - _DIGEST - 1].strip("-_.")
    return f"{kept or 'scan'}-{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]


@dataclass(frozen=True)
class BidsName:
    """Where a label lies in BIDS derivatives.

    Args:
        folder: from the data set's folder, with ``/``.
        entities: of its file, as ``sub-01_ses-2``.
        source: suffix of the scan that it belongs to, as ``T1w``; "" when the scan's name says nothing of it.
    """

    folder: str
    entities: str
    source: str = ""


def bids_names(names: Collection[str]) -> Mapping[str, BidsName]:
    """The place of each scan's label in BIDS derivatives.

    A scan that has a BIDS name (``sub-01_ses-2_T1w``) keeps subject, session and all other entities. Any other is a
    subject of its own.

    Args:
        names: of all scans of the study.
    """
    known = {name: found for name in names if (found := _as_bids(name)) is not None}
    plain = {name: re.sub(r"[^A-Za-z0-9]+", "", name) for name in names if name not in known}
    taken = Counter([each.lower() for each in plain.values()])
    taken.update(found.entities.split("_")[0][len("sub-") :].lower() for found in known.values())
    for name, label in plain.items():
        subject = label if label and taken[label.lower()] == 1 and len(label) <= _MOST else ""
        subject = subject or f"{label[: _MOST - _DIGEST]}{_digest(name)}"
        known[name] = BidsName(f"sub-{subject}/anat", f"sub-{subject}")
    return known


def _as_bids(name: str) -> BidsName | None:
    """The parts of a BIDS name, None when it is none."""
    parts = name.split("_")
    suffix = parts.pop() if "-" not in parts[-1] else ""
    pairs = [found for part in parts if (found := _ENTITY.fullmatch(part))]
    keys = [found[1] for found in pairs]
    whole = bool(pairs) and len(pairs) == len(parts) and keys[0] == "sub" and len(set(keys)) == len(keys)
    if not whole or "desc" in keys or not re.fullmatch(r"[A-Za-z0-9]*", suffix):
        return None
    session = f"/{pairs[1][0]}" if keys[1:2] == ["ses"] else ""
    return BidsName(f"{pairs[0][0]}{session}/anat", "_".join(parts), suffix)
