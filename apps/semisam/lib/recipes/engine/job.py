"""The training that several processes share, as the first one tells it to the others."""

from __future__ import annotations

from dataclasses import dataclass

from lib.parallel.ranks import Ranks
from lib.propagation.study_tools import Tools

from .report import RunRequest, RunResult, SilentObserver
from .run import run_recipe


@dataclass(frozen=True)
class Job:
    """A run as plain facts that can be sent to other processes. All paths mean the same on every machine.

    Args:
        request: scans, options, and where run folders are kept.
        tools: generalists and propagator.
    """

    request: RunRequest
    tools: Tools

    def help(self, ranks: Ranks) -> RunResult:
        """Do this process's share of the run; the first process calls ``run_recipe`` itself."""
        self.tools.take_over_limits()
        generalist, *further = self.tools.open_generalists()
        return run_recipe(
            self.request,
            generalist=generalist,
            further=further,
            propagator=self.tools.open_propagator(),
            observer=SilentObserver(),
            ranks=ranks,
        )
