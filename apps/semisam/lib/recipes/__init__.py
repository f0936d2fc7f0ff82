"""Recipes: the collaborative training procedures, made of the parts in the sister packages."""

from .base import Case, FinishedRound, Observer, Progress, PseudoLabel, RecipeSettings, RunResult, SilentObserver
from .grid import network_2d
from .options import CHOICES, PRESETS, RECIPES, RecipeOptions
from .registry import resolve
from .run import run_recipe

__all__ = [
    "CHOICES",
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
    "SilentObserver",
    "network_2d",
    "resolve",
    "run_recipe",
]
