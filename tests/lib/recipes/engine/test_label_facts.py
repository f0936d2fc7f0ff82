"""What is known about a pseudo-label, as it is written and read back."""

from __future__ import annotations

from typing import Any

import pytest

from lib.recipes.engine.label_facts import PseudoLabelFacts

KNOWN: dict[str, Any] = {
    "label_names": {"ball": 1, "rod": 2},
    "volume_ml": {"ball": 1.5, "rod": 0.0},
    "recipe": "fm_abs",
    "confidence": 0.75,
    "uncertainty": 0.125,
    "templates": ["case_1"],
    "round": 2,
    "source": "specialist",
}
"""As the version before wrote it."""


@pytest.mark.parametrize("more", [{}, {"agreement": 0.5}, {"warnings": ["the rod was not found"]}, {"sound": False}])
def test_facts_are_written_as_they_were_read(more: dict[str, Any]) -> None:
    facts = PseudoLabelFacts.from_json(KNOWN | more)
    assert facts.to_json() == KNOWN | more
    assert facts.agreement == more.get("agreement")
    assert list(facts.to_json()) == list(PseudoLabelFacts.from_json(facts.to_json()).to_json())


@pytest.mark.parametrize(
    "wrong",
    [{"confidence": None}, {"templates": 3}, {"source": "magic"}, {"volume_ml": [1]}, {"round": "first"}],
)
def test_facts_of_another_kind_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not the facts"):
        PseudoLabelFacts.from_json(KNOWN | wrong)
    with pytest.raises(ValueError, match="not the facts"):
        PseudoLabelFacts.from_json({key: value for key, value in KNOWN.items() if key not in wrong})


def test_a_label_holds_a_structure_when_one_has_a_volume() -> None:
    assert PseudoLabelFacts.from_json(KNOWN).holds_structure
    assert not PseudoLabelFacts.from_json(KNOWN | {"volume_ml": {"ball": 0.0, "rod": 0.0}}).holds_structure


def test_what_is_not_sound_or_holds_nothing_does_not_teach() -> None:
    assert PseudoLabelFacts.from_json(KNOWN).teaches
    assert not PseudoLabelFacts.from_json(KNOWN | {"sound": False}).teaches
    assert not PseudoLabelFacts.from_json(KNOWN | {"volume_ml": {"ball": 0.0, "rod": 0.0}}).teaches
