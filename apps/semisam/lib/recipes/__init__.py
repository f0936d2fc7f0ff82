"""Recipes: the collaborative training procedures, made of the parts in the sister packages."""

from .choices import CHOICES, parse_options, resolve
from .engine.grid import network_2d
from .engine.options import PRESETS, RecipeOptions
from .engine.report import (
    Case,
    FinishedRound,
    Observer,
    Progress,
    PseudoLabel,
    RecipeSettings,
    RunRequest,
    RunResult,
    SilentObserver,
)
from .engine.run import run_recipe
from .registry import RECIPES

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
    "RunRequest",
    "RunResult",
    "SilentObserver",
    "network_2d",
    "parse_options",
    "resolve",
    "run_recipe",
]
