"""Two servers of one study: labels stay whole, but trainings and scores get in each other's way. So it is said."""

from __future__ import annotations

import logging
import os
import threading

from .records import SERVING, JobRecords

logger = logging.getLogger("semisam.jobs")


def note_server(records: JobRecords) -> None:
    """Note that this process serves the study, and warn of others that do.

    Args:
        records: of the study.
    """
    others = [each for each in records.running(SERVING) if each.pid != os.getpid() or not each.here]
    for other in others:
        logger.warning(
            "This study is served already, since %s by process %d on %s. Labels are safe, but only one of the servers "
            "can train at a time, and each shows its own progress only. Stop one of them, unless this is intended.",
            other.started,
            other.pid,
            other.host,
        )
    try:
        own = records.begin(SERVING, (0, 0.0), os.getpid())
    except OSError as error:
        logger.warning("It could not be noted that this study is served: %s", error)
        return
    records.keep_saying(own, threading.Event())  # for as long as this process runs
