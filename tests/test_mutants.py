"""The list of mutants fits the app."""

from __future__ import annotations

from mutants import MUTANTS, problems


def test_every_mutant_can_be_made_and_its_tests_are_there() -> None:
    """Whoever changes a line that a mutant changes gives the mutant the new text, or drops it with the decision."""
    assert problems() == []
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
