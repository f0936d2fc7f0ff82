"""The recipes by name: one line each."""

from __future__ import annotations

from collections.abc import Mapping

from . import fm_abs, sc_sam, semisam_o1, semisam_plus, ssl_medsam2
from .engine.recipe import Recipe

RECIPES: Mapping[str, Recipe] = {
    "semisam_o1": semisam_o1.RECIPE,
    "semisam_plus": semisam_plus.RECIPE,
    "fm_abs": fm_abs.RECIPE,
    "ssl_medsam2": ssl_medsam2.RECIPE,
    "sc_sam": sc_sam.RECIPE,
}
"""Names that a request may give as ``recipe``; the first one is the default."""
