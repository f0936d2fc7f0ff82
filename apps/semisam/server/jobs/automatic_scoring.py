"""Scoring that the server starts by itself: one job for all that is due; it ends when a person starts a job."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from server.upstream import background_jobs

from .process import Jobs

logger = logging.getLogger("semisam.scoring")

_KIND = "scoring"


class AutomaticScoring:
    """The scoring job that the server has started by itself, if there is one."""

    def __init__(self) -> None:
        self._task: str | None = None

    def start(self, methods: Sequence[str]) -> dict[str, object]:
        """Start one job for these methods; at least one.

        Returns:
            The job as MONAI Label lists it, empty when it does not start now.
        """
        first, *others = methods
        task, refused = background_jobs.start(_KIND, {"method": first, "then": others})
        self._task = task["id"] if task else None
        if refused:
            logger.info("Scoring does not start now: %s", refused)
        return dict(task or {})

    def give_way(self, jobs: Jobs | None) -> None:
        """End the job, also when it has not begun yet. What it has worked out is stored; it goes on at the next chance.

        Args:
            jobs: those of this process, None when it is not the server.
        """
        if self._task is not None and jobs is not None:
            logger.info("The scoring that had started by itself makes way, if it has not ended")
            jobs.withdraw(_KIND, self._task)
        self._task = None
