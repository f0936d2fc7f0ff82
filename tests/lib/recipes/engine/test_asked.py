"""Which of several generalists a recipe prompts, and what that means for a run that was begun."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lib.generalists import CachedGeneralist, FeatureCache
from lib.generalists.mind import Mind
from lib.recipes import RECIPES, RecipeOptions, RecipeSettings, RunRequest
from lib.recipes.engine.opening import Files, identity_of
from lib.recipes.engine.recipe import Asks, asked_of
from recipe_runs import SCHEMA, CopyPropagator


class Named(Mind):
    """Another one."""

    def __init__(self, name: str, weights_hash: str) -> None:
        super().__init__()
        self.name = name
        self.weights_hash = weights_hash


@pytest.mark.parametrize(
    ("asks", "names", "asked"),
    [
        ("nobody", ["mobile_sam", "lite_medsam"], []),
        ("all", ["mobile_sam", "lite_medsam"], ["mobile_sam", "lite_medsam"]),
        ("all", ["mind"], ["mind"]),
        ("one", ["mobile_sam", "lite_medsam"], ["mobile_sam"]),
        ("one", ["mind", "mobile_sam", "lite_medsam"], ["mobile_sam"]),
        ("one", ["mind"], ["mind"]),
    ],
)
def test_who_is_asked(asks: Asks, names: Sequence[str], asked: Sequence[str]) -> None:
    assert list(asked_of(asks, names)) == list(asked)


def test_which_recipes_ask_whom() -> None:
    assert {name: recipe.asks for name, recipe in RECIPES.items()} == {
        "semisam_o1": "nobody",
        "semisam_plus": "all",
        "fm_abs": "one",
        "ssl_medsam2": "nobody",
        "sc_sam": "one",
    }


def test_an_unfinished_run_goes_on_only_with_the_same_generalists() -> None:
    request = RunRequest((), SCHEMA, RecipeOptions(recipe="semisam_plus"), RecipeSettings(), Path())

    def identity(*asked: Mind) -> object:
        return identity_of(request, Files((), {}, {}), first, CopyPropagator(), asked)

    first, second, newer = Named("a", "1"), Named("b", "1"), Named("b", "2")
    assert identity() == identity(first), "as before there could be several"
    different = [identity(first), identity(first, second), identity(first, newer), identity(second)]
    assert all(one != other for n, one in enumerate(different) for other in different[:n])


def test_an_unfinished_run_goes_on_only_if_the_same_features_describe_its_scans(tmp_path: Path) -> None:
    """A run of the version before that carried volumes over by a 2D model's features starts anew."""
    request = RunRequest((), SCHEMA, RecipeOptions(), RecipeSettings(), Path())

    def identity(generalist: CachedGeneralist) -> object:
        return identity_of(request, Files((), {}, {}), generalist, CopyPropagator())

    model, cache = Named("a", "1"), FeatureCache(tmp_path)
    alone = CachedGeneralist(model, cache)
    beside_mind = CachedGeneralist(model, cache, for_volumes=Mind())
    assert identity(alone) != identity(beside_mind) == identity(CachedGeneralist(model, cache, for_volumes=Mind()))
