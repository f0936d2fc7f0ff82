"""Warnings about a DICOM series, kept beside the volume file that was made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def notes_file(path: Path) -> Path:
    """Where the notes of a scan's file are kept."""
    return path.with_name(f".{path.name}.notes.json")


def keep_notes(path: Path, notes: Sequence[str]) -> None:
    """Keep notes beside a scan's file, also when there are none."""
    notes_file(path).write_text(json.dumps(list(notes)), encoding="utf-8")


def kept_notes(path: Path) -> tuple[str, ...]:
    """The notes beside a scan's file; () when there are none."""
    try:
        found = json.loads(notes_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(str(each) for each in found) if isinstance(found, list) else ()
