"""Manners of the subprocesses in which MONAI Label runs training, batch infer and scoring."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from fastapi import HTTPException

from lib.errors import UserError
from lib.memory import keep_freed_memory

from .answers import text_of

logger = logging.getLogger("semisam.jobs")

_NICE = 5
"""The server goes first, but a busy machine must not bring the job to a halt."""

_READ_SECONDS = 1.0


@contextmanager
def job(what: str, *, advice: str) -> Iterator[None]:
    """Run heavy work behind the server's back: with low priority, and with an end that says what happened.

    MONAI Label shows a client the last 20 lines of a failed job, and may miss what is printed in its last moment.

    Args:
        what: the job's name, as the last line calls it.
        advice: what to do after an error of which we know no more.
    """
    if hasattr(os, "nice"):
        os.nice(max(0, _NICE - os.nice(0)))
    keep_freed_memory()
    try:
        yield
    except (UserError, HTTPException) as error:
        _end(f"{what} stopped: {text_of(error)}")
    except Exception as error:
        logger.exception("%s failed", what)
        _end(f"{what} stopped: {text_of(error)}. {advice}")


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
    time.sleep(_READ_SECONDS)
    raise SystemExit(1)
