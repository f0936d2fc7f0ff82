"""What a user may choose for a training, as far as it depends on the recipes; requests are read here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lib.core.errors import UserError
from lib.specialists.networks import NETWORKS

from .engine.options import (
    AUTO,
    FUSIONS,
    MOST_EPOCHS,
    MOST_ROUNDS,
    MOST_SEED,
    NNUNET,
    PRESETS,
    PROMPTS,
    Preset,
    RecipeOptions,
    choose_device,
    preset_names,
)
from .engine.recipe import ALL_REGULARISERS, asked_of
from .registry import RECIPES


def _offered_networks() -> tuple[str, ...]:
    """Every network that some recipe can train."""
    offered = {network for recipe in RECIPES.values() for network in recipe.networks}
    return tuple(network for network in (*NETWORKS, NNUNET) if network in offered)


CHOICES: Mapping[str, tuple[str, ...]] = {
    "network": (AUTO, *_offered_networks()),
    "regulariser": (AUTO, *ALL_REGULARISERS),
    "prompts": PROMPTS,
    "fusion": FUSIONS,
}
"""Further choices by option, the default first. ``RECIPES`` says which recipe can use which of them."""


def parse_options(request: Mapping[str, object]) -> RecipeOptions:
    """Read the options of a training request; keys of other parts of the app are ignored.

    Whole numbers may come as int, float or text; 0, "" and None mean the preset's default. Clients send a list
    where the server offered a choice and nothing was chosen: its first entry counts.

    Raises:
        UserError: (400) when a value is not allowed; the text says what is.
    """
    device = choose_device(_text(request, "device") or "auto")
    names = tuple(RECIPES)
    return RecipeOptions(
        recipe=_choice(request, "recipe", names, names[0]),
        preset=_choice(request, "preset", tuple(PRESETS), preset_names(device)[0]),
        rounds=_whole(request, "rounds", MOST_ROUNDS) or None,
        max_epochs=_whole(request, "max_epochs", MOST_EPOCHS) or None,
        seed=_whole(request, "seed", MOST_SEED),
        device=device,
        **{name: _choice(request, name, allowed, allowed[0]) for name, allowed in CHOICES.items()},
    )


def resolve(options: RecipeOptions, generalists: Sequence[str] = ()) -> RecipeOptions:
    """Put the recipe's own choices in place of ``auto``.

    Args:
        options: as the user chose them.
        generalists: names of the server's, in order: one with weights that the recipe asks may suit another network.

    Raises:
        UserError: (400) when the recipe cannot do what was chosen; the text says what it can.
    """
    recipe = RECIPES[options.recipe]
    free = options.network == AUTO and generalists
    suited = recipe.network_with(asked_of(recipe.asks, generalists)) if free else None
    resolved = replace(
        options,
        network=_one_of(options, "network", suited or options.network, recipe.networks),
        regulariser=_one_of(options, "regulariser", options.regulariser, recipe.regularisers),
    )
    recipe.check(resolved)
    return resolved


def budget_of(options: RecipeOptions) -> Preset:
    """How much a run trains: the preset's budget, as one longer training where the recipe trains no ensemble."""
    budget = options.budget
    if RECIPES[options.recipe].ensembles:
        return budget
    longer = budget.epochs * (1 if options.max_epochs else budget.networks)
    return replace(budget, epochs=longer, networks=1)


def trainings_of(options: RecipeOptions) -> int:
    """Trainings in a round of a run."""
    return RECIPES[options.recipe].trainings * budget_of(options).networks


def _one_of(options: RecipeOptions, name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value == AUTO:
        return allowed[0]
    if value not in allowed:
        raise UserError(f"{name}: the recipe {options.recipe} cannot use {value!r}. Allowed: {', '.join(allowed)}.")
    return value


def _text(request: Mapping[str, object], key: str) -> str:
    value = request.get(key)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return "" if value is None else str(value).strip()


def _choice(request: Mapping[str, object], key: str, allowed: tuple[str, ...], default: str) -> str:
    text = _text(request, key) or default
    if text not in allowed:
        raise UserError(f"{key}: {text!r} is not known. Allowed: {', '.join(allowed)}.")
    return text


def _whole(request: Mapping[str, object], key: str, most: int) -> int:
    text = _text(request, key)
    if not text:
        return 0
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if isinstance(request.get(key), bool) or not number.is_integer() or not 0 <= number <= most:
        raise UserError(f"{key}: {text!r} is not allowed. Give a whole number from 0 to {most} (0 = the default).")
    return int(number)
