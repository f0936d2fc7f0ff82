"""What a run will do, and what it writes."""

from __future__ import annotations

from pathlib import Path

from lib.core.labels import LabelSchema
from lib.recipes import Case, RecipeOptions, RecipeSettings, RunRequest
from lib.recipes.engine.planning import RESERVE, Plan, bytes_needed, plan_work


def plan(recipe: str, scans: int, outlined: int) -> Plan:
    cases = [Case(str(n), Path(str(n)), Path("label") if n < outlined else None) for n in range(scans)]
    options = RecipeOptions(recipe=recipe, preset="standard", rounds=3, max_epochs=2)
    return plan_work(RunRequest(cases, LabelSchema(("a",)), options, RecipeSettings(), Path()), cases)


def test_the_work_of_a_run_counts_every_round_training_and_scan() -> None:
    found = plan("ssl_medsam2", 5, 1)
    assert (found.epochs, found.steps) == (10, 200)  # five trainings of two epochs of twenty steps
    assert found.work(5) == {"propagation": 5, "training": 600, "questions": 0, "prediction": 12, "refinement": 0}


def test_only_a_recipe_that_refines_has_refinement_to_do() -> None:
    found = plan("semisam_o1", 3, 1)
    assert found.work(3)["refinement"] == 6


def test_without_unlabelled_scans_there_is_one_round() -> None:
    found = plan("semisam_o1", 2, 2)
    assert found.work(2) == {"propagation": 2, "training": 40, "questions": 0, "prediction": 0, "refinement": 0}


def test_a_run_needs_room_for_images_and_the_labels_of_three_rounds() -> None:
    # Two bytes for the image; three rounds of two classes and the confidence, packed to one byte each.
    assert bytes_needed(voxels=1000, channels=2, scans=4) == RESERVE + 4 * 1000 * (2 + 3 * 3)
