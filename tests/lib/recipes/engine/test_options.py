"""Options of a training request."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from lib.core.errors import UserError
from lib.recipes import CHOICES, PRESETS, RECIPES, RecipeOptions, parse_options
from lib.recipes.choices import budget_of, resolve, trainings_of
from lib.recipes.engine.options import GPU_FACTOR, choose_device, preset_names
from lib.specialists.networks import NETWORKS
from lib.specialists.regularisers import REGULARISERS


def test_defaults() -> None:
    options = parse_options({"device": "cpu"})
    assert options == RecipeOptions(recipe="semisam_o1", preset="quick", rounds=None, max_epochs=None, seed=0)
    assert options.budget == PRESETS["quick"]


def test_a_gpu_sees_finer_grids_and_as_far() -> None:
    here, there = (RecipeOptions(preset="standard", device=device).budget for device in ("cpu", "cuda:1"))
    assert there.scan_voxels == GPU_FACTOR * here.scan_voxels
    assert there.roi_voxels == GPU_FACTOR * here.roi_voxels
    # A level doubles what the network sees, in voxels; so many more voxels are less than twice as fine.
    assert there.widths == (*here.widths, 2 * here.widths[-1])
    assert GPU_FACTOR ** (1 / 3) < 2
    assert (there.rounds, there.epochs, there.batch) == (here.rounds, here.epochs, here.batch)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_windows_cover_most_of_a_scan_and_a_round_is_long_enough(preset: str) -> None:
    for device in ("cpu", "cuda"):
        budget = RecipeOptions(preset=preset, device=device).budget
        assert budget.roi_voxels >= budget.scan_voxels
        assert budget.epochs * budget.iterations >= 400


@pytest.mark.parametrize("recipe", RECIPES)
def test_full_is_three_times_standard_whatever_the_recipe(recipe: str) -> None:
    def steps(preset: str) -> int:
        options = RecipeOptions(recipe=recipe, preset=preset)
        budget = budget_of(options)
        return budget.rounds * trainings_of(options) * budget.epochs * budget.iterations

    assert steps("full") == 3 * steps("standard")
    asked = RecipeOptions(recipe=recipe, preset="full", max_epochs=7)
    assert budget_of(asked).epochs == 7


def test_the_default_is_the_first_recipe() -> None:
    assert RecipeOptions().recipe == next(iter(RECIPES)) == "semisam_o1"


def test_every_regulariser_and_every_network_of_a_recipe_is_offered() -> None:
    assert CHOICES["regulariser"] == ("auto", *REGULARISERS)
    trained = {network for recipe in RECIPES.values() for network in recipe.networks}
    assert set(CHOICES["network"]) == {"auto", *trained}
    assert trained - {"nnunetv2"} <= set(NETWORKS)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_offers_can_be_chosen(recipe: str) -> None:
    options = parse_options({"recipe": recipe, "device": "cpu"})
    assert (options.network, options.regulariser) == ("auto", "auto")
    resolved = resolve(options)
    assert resolved.network == RECIPES[recipe].networks[0]
    assert resolved.regulariser == RECIPES[recipe].regularisers[0]


@pytest.mark.parametrize("three", [3, 3.0, "3", "3.0", [3]])
def test_whole_numbers_come_in_many_kinds(three: Any) -> None:
    options = parse_options({"rounds": three, "max_epochs": three, "seed": three, "device": "cpu"})
    assert (options.rounds, options.max_epochs, options.seed) == (3, 3, 3)
    assert (options.budget.rounds, options.budget.epochs) == (3, 3)


@pytest.mark.parametrize("nothing", [0, "", None, "0", []])
def test_nothing_means_the_preset(nothing: Any) -> None:
    options = parse_options({"rounds": nothing, "max_epochs": nothing, "preset": "full", "device": "cpu"})
    assert options.budget == PRESETS["full"]


def test_a_list_of_choices_means_its_first() -> None:
    assert parse_options({"preset": ["standard", "quick"], "device": ["cpu"]}).preset == "standard"


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("recipe", "magic", "semisam_o1"),
        ("preset", "huge", "quick, standard, full"),
        ("rounds", -1, "0 to 20"),
        ("rounds", 21, "0 to 20"),
        ("rounds", 1.5, "whole number"),
        ("rounds", True, "whole number"),
        ("max_epochs", "many", "whole number"),
        ("seed", float("nan"), "whole number"),
        ("seed", float("inf"), "whole number"),
        ("device", "tpu", "auto, cpu, cuda"),
        ("device", "cuda:x", "auto, cpu, cuda"),
        ("device", "cpu:1", "auto, cpu, cuda"),
    ],
)
def test_bad_values_say_what_is_allowed(key: str, value: Any, text: str) -> None:
    with pytest.raises(UserError, match=text) as error:
        parse_options({key: value})
    assert key in str(error.value)
    assert error.value.status == 400


def test_a_missing_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING, logger="semisam.train"):
        assert choose_device("cuda") == "cpu"
    assert "no usable GPU" in caplog.text
    assert choose_device("auto") == "cpu"


def test_a_gpu_is_used_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == choose_device("cuda:0") == "cuda:0"
    assert choose_device("CUDA:1") == "cuda:1"
    assert choose_device("cuda:5") == "cuda:0"
    assert choose_device("cpu") == "cpu"


def test_a_gpu_has_time_for_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert parse_options({}).preset == "standard"
    assert parse_options({"device": "cpu"}).preset == "quick"
    assert parse_options({"preset": "full"}).preset == "full"
    assert preset_names("cuda:0") == ["standard", "quick", "full"]
    assert preset_names("cpu") == ["quick", "standard", "full"]
