"""Outlines that exist already become ``final`` labels when the server starts (``--conf import``)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.core.errors import UserError
from lib.exchange.incoming import find_labels
from lib.setup.settings import FROM_SERVER
from server.store.study import Study

from .import_notes import ImportNotes, file_key
from .importing import IMPORTED, KEPT, OLDER, REFUSED, ImportRequest, Line, import_labels
from .on_server import KINDS, fetched_objects

logger = logging.getLogger("semisam.import")

_NOT_OURS = 500
"""From this status on, an error is not about what the administrator has said."""


def import_at_start(study: Study) -> None:
    """Import what the administrator has named; a final label that is there already stays.

    Labels that cannot be used are named in the log, and the server starts all the same; so it does when the DICOM
    server is away, there is no space for what it has, or the folder is gone.

    Args:
        study: the study.

    Raises:
        UserError: when names are not the study's structures, and no table says what they mean: nothing was imported
            then; when the study lies on no DICOM server.
    """
    source = study.settings.import_from
    if not source:
        return
    if source != FROM_SERVER and not os.path.exists(source):  # Path.exists raises where a network drive is gone
        logger.warning(
            "import: there is no file or folder %s, so nothing is imported. Give one with RTSTRUCT, SEG or label maps, "
            "or %s for what lies on the study's DICOM server.",
            *(source, FROM_SERVER),
        )
        return
    try:
        lines, known = _imported(study, source)
    except UserError as error:
        if error.status < _NOT_OURS:
            raise
        logger.error("Labels from %s were not imported: %s The next start tries it again.", source, error)
        return
    counts = {result: sum(line.result == result for line in lines) for result in (IMPORTED, KEPT, OLDER, REFUSED)}
    counts[KEPT] += known
    told = ", ".join(f"{count} {result}" for result, count in counts.items() if count) or "nothing to be found"
    logger.info("Labels from %s: %s", source, told)
    for line in lines:
        if line.result == REFUSED:
            logger.warning("%s was not imported: %s", line.source, line.reason)


def _imported(study: Study, source: str) -> tuple[list[Line], int]:
    """Import from a folder or the study's DICOM server.

    Returns:
        What has become of each label; how many were left unread, as their scans have a final label.
    """
    from_server, notes = source == FROM_SERVER, ImportNotes(study)
    own = study.scans_folder
    with fetched_objects(study, wanted=from_server, notes=notes) as fetched:
        if from_server:
            found = find_labels(fetched.folders, own)
        else:
            found = find_labels([Path(source)], own, notes.passes_file)
        found.refused.update(fetched.refused)
        request = ImportRequest(names=study.settings.import_names, at_start=True)
        lines = import_labels(study, found, request, _say)
    notes.save(_noted(lines, Path(source), fetched.keys if from_server else None))
    return lines, found.known + fetched.known


def _noted(lines: Sequence[Line], source: Path, series: Mapping[str, str] | None) -> dict[str, set[str]]:
    """Scans of the DICOM objects that were read, by the keys of ``ImportNotes``.

    Args:
        lines: what has become of them.
        source: where they lie.
        series: keys of the series that they were fetched with; None for files.
    """
    base = source if source.is_dir() else source.parent
    found: dict[str, set[str]] = {}
    for line in lines:
        key = file_key(base / line.source) if series is None else series.get(line.source.partition(os.sep)[0], "")
        if key:
            found.setdefault(key, set()).add(line.scan if line.kind in KINDS else "")
    return found


def _say(done: int, total: int, name: str) -> None:
    if name:
        logger.info("Import: label %d of %d, %s", done + 1, total, name)
