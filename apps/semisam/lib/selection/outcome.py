"""The outcome of scoring one scan: its values, and which methods failed, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.core.devices import memory_error, out_of_memory
from lib.core.errors import UserError
from lib.parallel.ranks import LostRankError

from .judge import Asked, Judge
from .measures import MEASURES
from .subject import Subject

logger = logging.getLogger("semisam.scoring")

SCAN = ""
"""Stands for a method where the scan itself cannot be read."""

_OF_THE_SCAN = (404, 422)
"""Status of errors that will come up again until the scan itself is exchanged."""
_OF_ALL = (409, 507)
"""Status of errors that the other scans would meet, too: no label or model to work with, no space."""


@dataclass(frozen=True)
class Refusal:
    """Why something could not be done.

    Args:
        reason: in words.
        lasting: whether it will come up again.
    """

    reason: str
    lasting: bool


@dataclass(frozen=True)
class Outcome:
    """What came of a scan.

    Args:
        name: the scan.
        found: by method.
        refused: by method, or ``SCAN``.
        states: of the question, see ``Asked``.
    """

    name: str
    found: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)


def refuse(name: str, error: Exception) -> Refusal:
    """What an error means for a scan; one that is not the scan's is raised again.

    Raises:
        UserError: when the other scans would meet the same error, or another process has ended.
    """
    if isinstance(error, LostRankError) or (isinstance(error, UserError) and error.status in _OF_ALL):
        raise error
    if out_of_memory(error):
        raise memory_error(error) from error
    if isinstance(error, UserError):
        refusal = Refusal(str(error), error.status in _OF_THE_SCAN)
    else:
        # One scan must not end the pass, whatever is wrong with it.
        logger.error("%s could not be scored", name, exc_info=error)
        refusal = Refusal("unexpected error, told in the server's log", True)
    logger.warning("Passed over %s: %s", name, refusal.reason)
    return refusal


def score(asked: Asked, judge: Judge) -> Outcome:
    """Read a scan and work out what is asked about it.

    Raises:
        UserError: see ``refuse``.
    """
    subject, outcome = Subject(asked, judge), Outcome(asked.name, states=asked.states)

    def attempt(work: Callable[[], Any], method: str) -> Any:
        try:
            return work()
        except Exception as error:
            outcome.refused[method] = refuse(asked.name, error)
            return None

    attempt(lambda: subject.scan, SCAN)
    for method in () if outcome.refused else asked.methods:
        found = attempt(lambda method=method: MEASURES[method](subject), method)  # type: ignore[misc]
        if method not in outcome.refused:
            outcome.found[method] = found
    return outcome
