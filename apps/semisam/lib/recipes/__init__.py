"""Recipes: the collaborative training procedures, made of the parts in the sister packages."""

from .base import Case, FinishedRound, Observer, Progress, PseudoLabel, RecipeSettings, RunResult
from .options import PRESETS, RECIPES, RecipeOptions
from .run import run_recipe

__all__ = [
    "PRESETS",
    "RECIPES",
    "Case",
    "FinishedRound",
    "Observer",
    "Progress",
    "PseudoLabel",
    "RecipeOptions",
    "RecipeSettings",
    "RunResult",
    "run_recipe",
]
