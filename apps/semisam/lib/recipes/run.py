"""Run a recipe over a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..generalists import Generalist
from ..labels import LabelSchema
from ..propagation import Propagator
from .base import Case, Observer, RecipeSettings, RunResult
from .options import RecipeOptions


def run_recipe(
    cases: Sequence[Case],
    schema: LabelSchema,
    options: RecipeOptions,
    settings: RecipeSettings,
    *,
    generalist: Generalist,
    propagator: Propagator,
    folder: Path,
    observer: Observer,
) -> RunResult:
    """Train a specialist on the human labels and on labels that the recipe makes for all other scans.

    Args:
        cases: every scan of the study that may be used.
        schema: the structures.
        options: what the user chose.
        settings: what the administrator chose.
        generalist: frozen features for matching and refinement.
        propagator: carries human labels over to the other scans.
        folder: where run folders are kept. A run that was killed continues at its last finished round when it is
            started again with the same input; the last three runs are kept.
        observer: told about progress and finished rounds.

    Raises:
        UserError: when no human label is there or none can be used, no scan can be read, there is no space left, or
            the training diverges; the text says what to do.
    """
    raise NotImplementedError
