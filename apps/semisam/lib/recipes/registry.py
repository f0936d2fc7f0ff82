"""Recipes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .base import FinishedRound
from .context import Context
from .semisam_o1 import run_semisam_o1

Recipe = Callable[[Context, "FinishedRound | None"], FinishedRound]
"""Runs all rounds after the given one (None: from the start) and returns the last one."""

IMPLEMENTATIONS: Mapping[str, Recipe] = {"semisam_o1": run_semisam_o1}
"""One entry for each of ``options.RECIPES``."""
