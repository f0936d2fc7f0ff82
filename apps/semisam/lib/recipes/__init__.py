"""Recipes: the collaborative training procedures, made of the parts in the sister packages."""

from .engine.grid import network_2d
from .engine.options import CHOICES, PRESETS, RECIPES, RecipeOptions
from .engine.report import (
    Case,
    FinishedRound,
    Observer,
    Progress,
    PseudoLabel,
    RecipeSettings,
    RunResult,
    SilentObserver,
)
from .engine.run import run_recipe
from .registry import resolve

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
