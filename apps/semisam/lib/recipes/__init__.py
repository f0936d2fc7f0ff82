"""Recipes: one package a paper, driven by ``engine``; what they deviate from the papers in common stands here.

| papers | here | why |
|---|---|---|
| SGD, 0.01, tens of thousands of steps | AdamW, 4e-3, weight decay 1e-4, 5 % warm-up, polynomial decay, gradients clipped at 5; hundreds to a thousand steps | a result while the radiologist is still there |
| flips and right-angle turns | small rotations, scaling and elastic deformation of half of the windows, contrast, noise and bias field in all; never a flip (nnU-Net mirrors, as it always does) | left and right structures must stay distinguishable |
| windows of a fixed number of voxels | a window that covers most of a scan, or most of the [part that matters](#large-scans) | with less around it, a network mistakes one place for another |
| the best checkpoint on a validation set | the last weights; a teacher and its student are averaged | with one or a few outlined scans there is no validation set |
| one training | rounds; each trains from scratch (`sc_sam` goes on) on the labels of the round before | errors of an early round are not learned for good |
| a failed training is the reader's to notice | a specialist that finds nothing of a structure is trained again, up to three times | it would wipe the structure out of the whole study |
"""  # noqa: E501

# The links in these tables are relative to docs/explanation/method.md, which benchmarks/method_page.py makes of them.

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
