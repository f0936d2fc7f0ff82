"""One pass over the study for several scoring methods: each scan is read and predicted once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastapi import HTTPException

from lib.core.errors import UserError
from lib.parallel.ranks import Ranks, end_with_the_others
from lib.recipes.engine.options import choose_device
from lib.selection.judge import Asked, Basis, Judge
from lib.selection.outcome import SCAN, Outcome, Refusal, refuse
from lib.selection.scoring_job import Job
from lib.selection.shared_pass import score_scans
from server.errors import text_of
from server.scores.scores import QUALITY, UNUSABLE, Scores
from server.store.folder_store import ORIGINAL
from server.store.study import Study

logger = logging.getLogger("semisam.scoring")

_LOG_SECONDS = 5.0
_LISTED = 20

T = TypeVar("T")


class Method(Protocol):
    """What a pass needs to know of a scoring method; ``scoring.base`` has what each of these does."""

    name: str

    def ready(self) -> None:
        """Raise UserError when no scan at all could be scored for now."""

    def missing(self) -> list[str]:
        """Scans that have no score of the present state."""

    def needs_templates(self) -> bool:
        """Whether labels of outlined scans are carried over."""

    def store(self, found: Mapping[str, Any], of: Mapping[str, str]) -> None:
        """Keep what was found about some scans, and the states that this belongs to."""

    def finish(self) -> None:
        """Called when all scans are done."""


def run_pass(
    study: Study, methods: Sequence[Method], request: Mapping[str, Any], ranks: Ranks | None = None
) -> dict[str, Any]:
    """Score all scans whose scores are missing or out of date; a scan that cannot be used is passed over.

    Scores are stored every few seconds: a pass that is killed goes on where it was.

    Args:
        study: the study.
        methods: what to work out; those that cannot work now are left out unless it is the first, which was asked for.
        request: may name a ``device``.
        ranks: the processes that share the pass, of which this is the first; the others ``help`` its ``Job``.

    Returns:
        ``scored``: how many scans; ``failed``: what is wrong with which scan.

    Raises:
        UserError: when the first method cannot work at all, or the others would fail like one.
    """
    ranks = ranks or Ranks()
    able = _able(methods)
    keeper = _Keeper(study, able)  # looks at what judges before the labels for it are collected
    todo = {method.name: set(method.missing()) for method in able}
    names = sorted(set().union(*todo.values()))
    logger.info("%s: %d scans to score", ", ".join(method.name for method in able), len(names))
    progress = _Progress(len(names))
    device = choose_device(str(request.get("device") or "auto"))
    basis = _basis(study, able)

    def asked() -> Iterator[Asked]:
        for name in names:
            found = keeper.ask(name, tuple(method.name for method in able if name in todo[method.name]))
            if found is None:
                progress.step(1)
            else:
                yield found

    scans: Iterable[Asked] = asked()
    if ranks.world > 1:
        # Only this process asks a server for scans: all are fetched before the work is shared.
        scans = list(scans)
        end_with_the_others()
        ranks.gather(Job(scans, basis, study.tools, device))
    judge = Judge(basis, study.generalist, study.propagator, ranks.device(device))
    score_scans(scans, judge, keep=keeper.keep, done=progress.step, ranks=ranks)
    keeper.note_refused()
    for method in able:
        method.finish()
    keeper.report(len(names))
    return {"scored": len(names) - len(keeper.failed), "failed": keeper.failed}


def _able(methods: Sequence[Method]) -> list[Method]:
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


def _basis(study: Study, methods: Sequence[Method]) -> Basis:
    """What the scans are judged by."""
    total = len(study.datastore.list_images())
    return Basis(
        schema=study.schema,
        published=study.published.absolute(),
        outlined=study.fully_annotated_cases() if any(method.needs_templates() for method in methods) else (),
        progress=1.0 - len(study.unlabelled()) / max(1, total),
        calibration=Scores(study).calibration(),
    )


class _Keeper:
    """What is asked about the scans, what was found and what failed, and its way to the disk."""

    def __init__(self, study: Study, methods: Sequence[Method]) -> None:
        self._study = study
        self._scores = Scores(study)
        self._methods = {method.name: method for method in methods}
        self._model = self._scores.model_state()
        self._refused: dict[str, dict[str, tuple[str, str]]] = {}
        self.failed: dict[str, str] = {}

    def ask(self, name: str, methods: tuple[str, ...]) -> Asked | None:
        """Where a scan's files are, which may have to come from a server; None when that fails."""
        store = self._study.datastore
        states = self._states(name, methods)
        image = self._attempt(name, states, SCAN, lambda: Path(store.get_image_uri(name)))
        if image is None:
            return None
        if QUALITY not in methods:
            return Asked(name, image, methods, states=states)
        label = self._attempt(name, states, QUALITY, lambda: self._study.stored_file(name, ORIGINAL))
        if label is None:
            methods = tuple(method for method in methods if method != QUALITY)
        params = store.get_label_info(name, ORIGINAL).get("params") or {}
        return Asked(name, image, methods, label, str(params.get("source") or ""), states)

    def _states(self, name: str, methods: Sequence[str]) -> dict[str, str]:
        """What the answers about a scan will depend on, before anything of it is read."""
        model = self._scores.specialist_state() or self._model
        keys = {SCAN: UNUSABLE, **{method: method for method in methods}}
        return {method: self._scores.states(key, model)(name) for method, key in keys.items()}

    def _attempt(self, name: str, states: Mapping[str, str], method: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except HTTPException as error:  # a DICOMweb server did not give it; it may the next time
            refusal = Refusal(text_of(error), lasting=False)
            logger.warning("Passed over %s: %s", name, refusal.reason)
        except Exception as error:
            refusal = refuse(name, error)
        self._refuse(name, method, refusal, states)
        return None

    def _refuse(self, name: str, method: str, refusal: Refusal, states: Mapping[str, str]) -> None:
        self.failed[name] = refusal.reason
        if refusal.lasting:
            self._refused.setdefault(method, {})[name] = refusal.reason, states[method]

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Store what was found."""
        for outcome in outcomes:
            for method, refusal in outcome.refused.items():
                self._refuse(outcome.name, method, refusal, outcome.states)
        for name, scoring in self._methods.items():
            told = [outcome for outcome in outcomes if name in outcome.found]
            if told:
                scoring.store({each.name: each.found[name] for each in told}, {o.name: o.states[name] for o in told})
        self.note_refused()

    def note_refused(self) -> None:
        """Store why scans were passed over."""
        refused, self._refused = self._refused, {}
        for method, told in refused.items():
            reasons, of = ({name: pair[n] for name, pair in told.items()} for n in (0, 1))
            if method == SCAN:
                self._scores.put_unusable(reasons, of)
            else:
                self._scores.put_failed(method, reasons, of)

    def report(self, count: int) -> None:
        """Say once more what was passed over."""
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

    def step(self, units: int) -> None:
        """So many scans more are done, at most all of them."""
        self._done = min(self._count, self._done + units)
        now = time.monotonic()
        if now - self._said_at < _LOG_SECONDS and self._done < self._count:
            return
        self._said_at = now
        left = (now - self._begun) / self._done * (self._count - self._done)
        logger.info("Scoring: %d of %d scans. About %.0f s left", self._done, self._count, left)
