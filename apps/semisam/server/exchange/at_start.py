"""Outlines that exist already become ``final`` labels when the server starts (``--conf import``)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from lib.core.errors import UserError
from lib.exchange.incoming import find_labels
from lib.setup.settings import FROM_SERVER
from server.store.study import Study

from .importing import IMPORTED, KEPT, OLDER, REFUSED, ImportRequest, Line, import_labels
from .on_server import fetched_objects

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
        lines = _imported(study, source)
    except UserError as error:
        if error.status < _NOT_OURS:
            raise
        logger.error("Labels from %s were not imported: %s The next start tries it again.", source, error)
        return
    counts = {result: sum(line.result == result for line in lines) for result in (IMPORTED, KEPT, OLDER, REFUSED)}
    told = ", ".join(f"{count} {result}" for result, count in counts.items() if count) or "nothing to be found"
    logger.info("Labels from %s: %s", source, told)
    for line in lines:
        if line.result == REFUSED:
            logger.warning("%s was not imported: %s", line.source, line.reason)


def _imported(study: Study, source: str) -> list[Line]:
    """Import from a folder or the study's DICOM server; returns what has become of each label."""
    from_server = source == FROM_SERVER
    own = None if "://" in study.location else Path(study.location).resolve()
    with fetched_objects(study, wanted=from_server) as fetched:
        found = find_labels(fetched.folders if from_server else [Path(source)], own)
        found.refused.update(fetched.refused)
        request = ImportRequest(names=study.settings.import_names, at_start=True)
        return import_labels(study, found, request, _say)


def _say(done: int, total: int, name: str) -> None:
    if name:
        logger.info("Import: label %d of %d, %s", done + 1, total, name)
