"""The process of a job (training, batch infer, scoring): its priority, its record, and what it says at its end."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from fastapi import HTTPException

from lib.core.allocator import keep_freed_memory
from lib.core.errors import UserError
from server.errors import text_of

from .records import JobRecords
from .system_processes import followed, lower_priority

logger = logging.getLogger("semisam.jobs")


@contextmanager
def job(what: str, kind: str, place: Path, *, advice: str) -> Iterator[None]:
    """Run heavy work behind the server's back: with low priority, and with an end that says what happened.

    MONAI Label shows a client the last 20 lines of a failed job.

    Args:
        what: the job's name, as the last line calls it.
        kind: what it is, see ``JobRecord``.
        place: the study's folder for what does not depend on its labels: there the job is noted while it runs.
        advice: what to do after an error of which we know no more.
    """
    lower_priority()
    keep_freed_memory()
    try:
        with _noted(kind, place):
            yield
    except (UserError, HTTPException) as error:
        _end(f"{what} stopped: {text_of(error)}")
    except Exception as error:
        _end(f"{what} stopped: {text_of(error)}. {advice}")


@contextmanager
def _noted(kind: str, place: Path) -> Iterator[None]:
    """Let it be known that this job runs; whether it can be noted is no reason not to."""
    records = JobRecords(place)
    record = None
    try:
        record = records.begin(kind, followed(), os.getpid())
    except OSError as error:
        logger.warning("The job could not be noted: %s", error)
    end = threading.Event()
    if record is not None:
        records.keep_saying(record, end)
    try:
        yield
    finally:
        end.set()
        if record is not None:
            records.remove(record)


def stop_start(error: UserError) -> NoReturn:
    """End the process because the server cannot start; the text is the last thing printed.

    An exception, SystemExit too, would be turned into a wall of traceback by the ASGI server, with the reason in its
    middle.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    print(f"\nsemisam cannot start.\n{error}", file=sys.stderr, flush=True)
    os._exit(2)


def _end(text: str) -> NoReturn:
    logging.shutdown()
    sys.stderr.flush()
    print(text, flush=True)
    raise SystemExit(1)
