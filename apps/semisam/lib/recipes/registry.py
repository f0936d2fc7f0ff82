"""Recipes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lib.core.errors import UserError

from .engine.context import Context
from .engine.options import AUTO, NNUNET, Preset, RecipeOptions
from .engine.report import FinishedRound
from .fm_abs.recipe import run_fm_abs
from .sc_sam.recipe import run_sc_sam
from .semisam_o1.recipe import run_semisam_o1
from .semisam_plus.recipe import run_semisam_plus
from .ssl_medsam2.recipe import FOLDS, check_ssl_medsam2, run_ssl_medsam2, versions_of_ssl_medsam2

Run = Callable[[Context, "FinishedRound | None"], FinishedRound]
"""Runs all rounds after the given one (None: from the start) and returns the last one."""

NETWORKS_3D = ("unet3d", "vnet", "dynunet", "unet2d")
ALL_REGULARISERS = ("mean_teacher", "ua_mt", "dan", "dtc", "ac_mt", "supervised")


@dataclass(frozen=True)
class Recipe:
    """A recipe and what it offers.

    Args:
        run: the algorithm.
        networks: kinds of specialist it can train, its default first.
        regularisers: semi-supervised losses it can use, its default first.
        trainings: trainings in a round.
        ensembles: whether it does each of them for all of the preset's ``networks``.
        refines: whether it refines its predictions after each round.
        propagates: whether it begins by carrying labels over, which takes a scan that is outlined wholly.
        check: raises UserError when it cannot do what was chosen.
        versions: of further packages that the results depend on, by name.
    """

    run: Run
    networks: tuple[str, ...] = NETWORKS_3D
    regularisers: tuple[str, ...] = ALL_REGULARISERS
    trainings: int = 1
    ensembles: bool = False
    refines: bool = False
    propagates: bool = True
    check: Callable[[RecipeOptions], None] = lambda options: None
    versions: Callable[[RecipeOptions], Mapping[str, str]] = lambda options: {}


IMPLEMENTATIONS: Mapping[str, Recipe] = {
    "semisam_o1": Recipe(run_semisam_o1, ensembles=True, refines=True),
    "semisam_plus": Recipe(run_semisam_plus, ensembles=True),
    "fm_abs": Recipe(run_fm_abs, regularisers=("mean_teacher",), propagates=False),
    "ssl_medsam2": Recipe(
        run_ssl_medsam2,
        networks=("dynunet", "unet3d", "vnet", "unet2d", NNUNET),
        regularisers=("supervised", *ALL_REGULARISERS[:-1]),
        trainings=FOLDS,
        check=check_ssl_medsam2,
        versions=versions_of_ssl_medsam2,
    ),
    "sc_sam": Recipe(run_sc_sam, networks=("unet2d", "sam"), regularisers=("supervised",), propagates=False),
}
"""One entry for each of ``options.RECIPES``."""


def resolve(options: RecipeOptions) -> RecipeOptions:
    """Put the recipe's own choices in place of ``auto``.

    Raises:
        UserError: (400) when the recipe cannot do what was chosen; the text says what it can.
    """
    recipe = IMPLEMENTATIONS[options.recipe]
    resolved = replace(
        options,
        network=_one_of(options, "network", options.network, recipe.networks),
        regulariser=_one_of(options, "regulariser", options.regulariser, recipe.regularisers),
    )
    recipe.check(resolved)
    return resolved


def amount_of(options: RecipeOptions) -> Preset:
    """How much a run trains: the preset's, in longer trainings where the recipe does not put networks together."""
    amount = options.amount
    if IMPLEMENTATIONS[options.recipe].ensembles:
        return amount
    longer = amount.epochs * (1 if options.max_epochs else amount.networks)
    return replace(amount, epochs=longer, networks=1)


def trainings_of(options: RecipeOptions) -> int:
    """Trainings in a round of a run."""
    return IMPLEMENTATIONS[options.recipe].trainings * amount_of(options).networks


def _one_of(options: RecipeOptions, name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value == AUTO:
        return allowed[0]
    if value not in allowed:
        raise UserError(f"{name}: the recipe {options.recipe} cannot use {value!r}. Allowed: {', '.join(allowed)}.")
    return value
