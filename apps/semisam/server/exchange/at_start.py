"""Outlines that exist already become ``final`` labels when the server starts (``--conf import``)."""

from __future__ import annotations

import logging
from pathlib import Path

from lib.exchange.incoming import find_labels
from lib.setup.settings import FROM_SERVER
from server.store.study import Study

from .importing import IMPORTED, KEPT, OLDER, REFUSED, ImportRequest, import_labels
from .on_server import fetched_objects

logger = logging.getLogger("semisam.import")


def import_at_start(study: Study) -> None:
    """Import what the administrator has named; a final label that is there already stays.

    Labels that cannot be used are named in the log, and the server starts all the same.

    Args:
        study: the study.

    Raises:
        UserError: when names are not the study's structures, and no table says what they mean: nothing was imported
            then; (404) when the folder is gone.
    """
    source, names = study.settings.import_from, study.settings.import_names
    if not source:
        return
    own = None if "://" in study.location else Path(study.location).resolve()
    with fetched_objects(study, wanted=source == FROM_SERVER) as fetched:
        found = find_labels(fetched if source == FROM_SERVER else [Path(source)], own)
        request = ImportRequest(names=names, at_start=True)
        lines = import_labels(study, found, request, _say)
    counts = {result: sum(line.result == result for line in lines) for result in (IMPORTED, KEPT, OLDER, REFUSED)}
    told = ", ".join(f"{count} {result}" for result, count in counts.items() if count) or "nothing to be found"
    logger.info("Labels from %s: %s", source, told)
    for line in lines:
        if line.result == REFUSED:
            logger.warning("%s was not imported: %s", line.source, line.reason)


def _say(done: int, total: int, name: str) -> None:
    if name:
        logger.info("Import: label %d of %d, %s", done + 1, total, name)
