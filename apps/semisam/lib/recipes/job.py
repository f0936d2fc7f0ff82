"""What the first process tells the others about the run they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..distributed import Ranks
from ..generalists import CachedGeneralist, FeatureCache, Generalist, ResidentGeneralist, create_generalist, find_entry
from ..labels import LabelSchema
from ..propagation import create_propagator
from .base import Case, FinishedRound, Progress, RecipeSettings, RunResult
from .options import RecipeOptions
from .run import run_recipe


@dataclass(frozen=True)
class Job:
    """A run, as plain facts; see ``run_recipe``. All paths mean the same on every machine.

    Args:
        cases: every scan.
        schema: the structures.
        options: what the user chose.
        settings: what the administrator chose.
        generalist: its name.
        weights: folder of the generalists' weights.
        features: folder of the features on disk.
        propagator: its name.
        folder: where run folders are kept.
    """

    cases: Sequence[Case]
    schema: LabelSchema
    options: RecipeOptions
    settings: RecipeSettings
    generalist: str
    weights: Path
    features: Path
    propagator: str
    folder: Path

    def help(self, ranks: Ranks) -> RunResult:
        """Do this process's share of the run; the first process calls ``run_recipe`` itself."""
        return run_recipe(
            self.cases,
            self.schema,
            self.options,
            self.settings,
            generalist=open_generalist(self.generalist, self.weights, self.features),
            propagator=create_propagator(self.propagator),
            folder=self.folder,
            observer=_Nobody(),
            ranks=ranks,
        )


def open_generalist(name: str, weights: Path, features: Path) -> Generalist:
    """A generalist on this process's GPU if it has one; its weights are read when they are first needed.

    Args:
        name: of the generalist.
        weights: folder of the weights.
        features: folder where its features are kept.
    """
    cache = FeatureCache(features)
    if find_entry(name).weights is None:
        return CachedGeneralist(create_generalist(name), cache, own=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return CachedGeneralist(ResidentGeneralist(name, weights=weights, device=device), cache)


class _Nobody:
    """An observer that does not listen."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def round_finished(self, finished: FinishedRound) -> None:
        """Nothing."""
