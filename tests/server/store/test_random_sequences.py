"""Three processes change one study at random, and are killed at random: a ``final`` is always the last one saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from random_sequences import play


@pytest.mark.slow
def test_finals_are_the_last_saved_whatever_three_processes_do(tmp_path: Path) -> None:
    counts = play(tmp_path, seed=11, steps=30)
    assert sum(counts.values()) - counts["killed"] == 30


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_finals_are_the_last_saved_in_two_thousand_steps(tmp_path: Path, seed: int) -> None:
    counts = play(tmp_path, seed=seed, steps=500)
    print(dict(counts))
    assert counts["killed"] > 20
