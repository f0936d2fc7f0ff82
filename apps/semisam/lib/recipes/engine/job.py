"""What the first process tells the others about the run they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.core.labels import LabelSchema
from lib.parallel.ranks import Ranks
from lib.propagation.study_tools import Tools

from .options import RecipeOptions
from .report import Case, FinishedRound, Progress, RecipeSettings, RunResult
from .run import run_recipe


@dataclass(frozen=True)
class Job:
    """A run, as plain facts; see ``run_recipe``. All paths mean the same on every machine.

    Args:
        cases: every scan.
        schema: the structures.
        options: what the user chose.
        settings: what the administrator chose.
        tools: generalist and propagator.
        folder: where run folders are kept.
    """

    cases: Sequence[Case]
    schema: LabelSchema
    options: RecipeOptions
    settings: RecipeSettings
    tools: Tools
    folder: Path

    def help(self, ranks: Ranks) -> RunResult:
        """Do this process's share of the run; the first process calls ``run_recipe`` itself."""
        self.tools.take_over_limits()
        return run_recipe(
            self.cases,
            self.schema,
            self.options,
            self.settings,
            generalist=self.tools.open_generalist(),
            propagator=self.tools.open_propagator(),
            folder=self.folder,
            observer=_Nobody(),
            ranks=ranks,
        )


class _Nobody:
    """An observer that does not listen."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def round_finished(self, finished: FinishedRound) -> None:
        """Nothing."""
