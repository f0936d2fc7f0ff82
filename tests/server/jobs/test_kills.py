"""Kills of trainings: nothing is lost, ``segment`` answers all the while, and the next training goes on."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from killed_jobs import Place
from lib.recipes import RECIPES
from tiny_study import make_tiny_study

KILLS = int(os.environ.get("SEMISAM_KILLS", "20"))


def place_of(folder: Path, recipe: str, **options: Any) -> Place:
    make_tiny_study(folder / "study", scans=3)
    request = {"model": "semisam", "recipe": recipe, "preset": "quick", "device": "cpu", "seed": 3}
    return Place(folder, {**request, "rounds": 2, **options})


def went_on(place: Place, expected: int | None, text: str) -> None:
    """The text says that the training went on after the round."""
    if expected is None:
        assert "continued" not in text
    else:
        assert f"Training continued after round {expected}." in text


@pytest.mark.slow
def test_killed_at_exact_moments_a_training_goes_on(tmp_path: Path) -> None:
    place = place_of(tmp_path, "fm_abs", rounds=1)
    for fatal in (8, 11, 12):  # while scans are prepared, when round 0 has ended, while round 1 is labelled
        assert place.killed(fatal=fatal), place.log()
        place.check()
        assert len(place.runs()) == 1
    expected = place.finished_round()
    assert not place.killed()
    place.check()
    went_on(place, expected, place.message())
    assert expected is not None
    assert not list(tmp_path.rglob(".part-*"))


@pytest.mark.soak
@pytest.mark.parametrize("recipe", RECIPES)
def test_random_kills(tmp_path: Path, recipe: str) -> None:
    """20 kills of each recipe; prints them. ``SEMISAM_KILLS`` says how many."""
    draw = random.Random(recipe)
    place = place_of(tmp_path, recipe)
    begun = time.monotonic()
    assert not place.killed()
    whole = time.monotonic() - begun
    wanted = place.results()
    place.check()
    kills: list[str] = []
    seconds, expected, runs = 0.0, None, place.runs()
    with place.asking():
        while len(kills) < KILLS:
            moment = draw.uniform(0.0, 0.7 * whole)
            was_killed = place.killed(moment)
            seconds += moment
            place.check()
            if was_killed:
                said = place.log()
                kills.append(f"{moment:.1f} s, next after round {place.finished_round()}")
                print(f"{recipe}, kill {len(kills)}: {kills[-1]}", flush=True)
                if "continued" in said:
                    went_on(place, expected, said)
                if expected is not None:
                    assert place.runs() == runs
            else:
                went_on(place, expected, place.message())
                assert place.results() == wanted
            expected, runs = place.finished_round(), place.runs()
        assert not place.killed()
    went_on(place, expected, place.message())
    assert place.results() == wanted  # bit by bit what an uninterrupted training gives
    assert not place.faults, place.faults
    assert place.asked > KILLS
    assert not list(tmp_path.rglob(".part-*"))
    print(f"\n{recipe}: {len(kills)} kills in {time.monotonic() - begun:.0f} s, a training takes {whole:.1f} s;")
    print(f"  segment answered {place.asked} times; " + "; ".join(kills))


@pytest.mark.soak
@pytest.mark.parametrize("recipe", RECIPES)
def test_kills_at_files(tmp_path: Path, recipe: str) -> None:
    """A kill at each of many files that a training puts in its place, just before it or just after it."""
    place = place_of(tmp_path, recipe, rounds=1)
    assert not place.killed()
    wanted, draw, kills = place.results(), random.Random(recipe), 0
    with place.asking():
        for _ in range(KILLS):
            expected = place.finished_round()
            if place.killed(fatal=draw.randint(1, 25)):
                kills += 1
            else:
                went_on(place, expected, place.message())
                assert place.results() == wanted
            place.check()
        assert not place.killed()
    assert place.results() == wanted
    assert not place.faults, place.faults
    assert not list(tmp_path.rglob(".part-*"))
    print(f"\n{recipe}: {kills} kills at files; segment answered {place.asked} times")
