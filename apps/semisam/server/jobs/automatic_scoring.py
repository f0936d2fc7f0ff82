"""Scoring that starts by itself: one job for all that is due, and out of the way when a person wants something."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import psutil  # type: ignore[import-untyped]
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks

logger = logging.getLogger("semisam.scoring")

_KIND = "scoring"


class Unasked:
    """The scoring job that nobody asked for."""

    def __init__(self) -> None:
        self._task: str | None = None

    def start(self, methods: Sequence[str]) -> dict[str, object]:
        """Start one job for these methods; at least one."""
        first, *others = methods
        task, refused = AsyncTask.run(_KIND, request={"method": first, "then": others}, enqueue=True)
        self._task = task["id"] if task else None
        if refused:
            logger.info("Scoring does not start now: %s", refused)
        return dict(task or {})

    def give_way(self) -> None:
        """Stop the job if it is running. What it has worked out is stored; it goes on at the next chance."""
        for task in tasks(_KIND):
            if task["id"] == self._task and task["status"] == "RUNNING":
                logger.info("The scoring that had started by itself makes way")
                try:
                    AsyncTask.stop(_KIND)
                except psutil.NoSuchProcess:
                    logger.debug("It has just ended")
        self._task = None
