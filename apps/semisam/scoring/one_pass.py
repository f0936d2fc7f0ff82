"""One pass over the study for several scoring methods: each scan is read and predicted once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException

from adapters.answers import text_of
from adapters.scores import Scores
from adapters.study import Study
from lib.errors import UserError
from lib.recipes.options import choose_device

from .subject import Subject

if TYPE_CHECKING:
    from .base import StudyScoring

logger = logging.getLogger("semisam.scoring")

_SAVE_SECONDS = 20.0
_LOG_SECONDS = 5.0
_OF_THE_SCAN = (404, 422)
"""Status of errors that will come up again until the scan itself is exchanged."""
_OF_ALL = (409, 507)
"""Status of errors that the other scans would meet, too: no label or model to work with, no space."""
_LISTED = 20


def run_pass(study: Study, methods: Sequence[StudyScoring], request: Mapping[str, Any]) -> dict[str, Any]:
    """Score all scans whose scores are missing or out of date; a scan that cannot be used is passed over.

    Scores are stored every few seconds: a pass that is killed goes on where it was.

    Args:
        study: the study.
        methods: what to work out; those that cannot work now are left out unless it is the first, which was asked for.
        request: may name a ``device``.

    Returns:
        ``scored``: how many scans; ``failed``: what is wrong with which scan.

    Raises:
        UserError: when the first method cannot work at all, or the others would fail like one.
    """
    able = _able(methods)
    todo = {method.name: set(method.missing()) for method in able}
    names = sorted(set().union(*todo.values()))
    logger.info("%s: %d scans to score", ", ".join(method.name for method in able), len(names))
    keeper = _Keeper(study, able)
    progress = _Progress(len(names))
    device = choose_device(str(request.get("device") or "auto"))
    for name in names:
        subject = Subject(study, name, device)
        for method in able if keeper.can_read(subject) else ():
            if name in todo[method.name]:
                keeper.try_one(method, subject)
        keeper.save_now_and_then()
        progress.step()
    keeper.save()
    for method in able:
        method.finish()
    keeper.report(len(names))
    return {"scored": len(names) - len(keeper.failed), "failed": keeper.failed}


def _able(methods: Sequence[StudyScoring]) -> list[StudyScoring]:
    able = []
    for method in methods:
        try:
            method.ready()
            able.append(method)
        except UserError as error:
            if method is methods[0]:
                raise
            logger.info("%s is left out: %s", method.name, error)
    return able


class _Keeper:
    """What was found and what failed, and its way to the disk."""

    def __init__(self, study: Study, methods: Sequence[StudyScoring]) -> None:
        self._scores = Scores(study)
        self._methods = methods
        self._found: dict[str, dict[str, Any]] = {method.name: {} for method in methods}
        self._unusable: dict[str, str] = {}
        self._refused: dict[str, dict[str, str]] = {method.name: {} for method in methods}
        self._saved_at = time.monotonic()
        self.failed: dict[str, str] = {}

    def can_read(self, subject: Subject) -> bool:
        """Whether the scan itself is in order."""
        return self._attempt(subject.name, lambda: subject.scan, self._unusable)[0]

    def try_one(self, method: StudyScoring, subject: Subject) -> None:
        done, found = self._attempt(subject.name, lambda: method.score(subject), self._refused[method.name])
        if done:
            self._found[method.name][subject.name] = found

    def _attempt(self, name: str, work: Callable[[], Any], lasting: dict[str, str]) -> tuple[bool, Any]:
        """Whether the work could be done, and its result; reasons that will come up again go into ``lasting``."""
        try:
            return True, work()
        except UserError as error:
            if error.status in _OF_ALL:
                self.save()
                raise
            reason = str(error)
            if error.status in _OF_THE_SCAN:
                lasting[name] = reason
        except HTTPException as error:
            reason = text_of(error)  # a DICOMweb server did not give the scan; it may the next time
        except Exception as error:
            # One scan must not end the pass, whatever is wrong with it.
            logger.exception("%s could not be scored", name)
            lasting[name] = reason = text_of(error)
        self.failed[name] = reason
        logger.warning("Passed over %s: %s", name, reason)
        return False, None

    def save_now_and_then(self) -> None:
        if time.monotonic() - self._saved_at > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        for method in self._methods:
            found, self._found[method.name] = self._found[method.name], {}
            if found:
                method.store(found)
            self._scores.put_failed(method.name, self._refused[method.name])
            self._refused[method.name] = {}
        self._scores.put_unusable(self._unusable)
        self._unusable = {}
        self._saved_at = time.monotonic()

    def report(self, count: int) -> None:
        if not self.failed:
            return
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(self.failed.items())[:_LISTED])
        more = f"; and {len(self.failed) - _LISTED} more" if len(self.failed) > _LISTED else ""
        logger.warning("%d of %d scans were passed over: %s%s", len(self.failed), count, listed, more)


class _Progress:
    """A line in the log every few seconds."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = 0
        self._begun = self._said_at = time.monotonic()

    def step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said_at < _LOG_SECONDS and self._done < self._count:
            return
        self._said_at = now
        left = (now - self._begun) / self._done * (self._count - self._done)
        logger.info("Scoring: %d of %d scans. About %.0f s left", self._done, self._count, left)
