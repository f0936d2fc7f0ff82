"""The recipe that docs/how-to/add-a-recipe.md shows runs as it stands there."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from lib.recipes import PRESETS, RECIPES, FinishedRound, RecipeOptions, parse_options, resolve
from lib.recipes.engine.options import Preset
from lib.specialists import load_specialist
from recipe_runs import KilledError, Listener, cases_of, run
from tiny_study import ROOT, make_tiny_study

PAGE = ROOT / "docs" / "how-to" / "add-a-recipe.md"

pytestmark = pytest.mark.usefixtures("one_thread")


def example() -> str:
    """The page's Python block."""
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecipeOptions:
    """The example, written to a file and registered by one line."""
    file = tmp_path / "self_training.py"
    file.write_text(example(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("self_training", file)
    assert spec is not None
    assert spec.loader is not None
    self_training: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(self_training)
    monkeypatch.setitem(RECIPES, "self_training", self_training.RECIPE)
    monkeypatch.setitem(PRESETS, "quick", Preset(2, 2, 4, 2, (4, 8, 8), 6_000, 4_000))
    return replace(parse_options({"recipe": "self_training", "preset": "quick", "device": "cpu"}), seed=3)


def test_the_example_is_short() -> None:
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 45


@pytest.mark.slow
def test_the_example_runs_all_rounds_and_goes_on_after_a_kill(options: RecipeOptions, tmp_path: Path) -> None:
    class Fragile(Listener):
        def round_finished(self, finished: FinishedRound) -> None:
            super().round_finished(finished)
            if finished.index == 1:
                raise KilledError

    cases = cases_of(make_tiny_study(tmp_path / "study", scans=3))
    with pytest.raises(KilledError):
        run(cases, tmp_path / "runs", Fragile(), options)
    listener = Listener()
    result = run(cases, tmp_path / "runs", listener, options)

    assert result.resumed_at == 2
    assert [finished.index for finished in listener.rounds] == [1, 2]
    assert set(result.pseudo_labels) == {"case_2", "case_3"}
    for label in result.pseudo_labels.values():
        assert label.path.is_file()
        assert (label.params["recipe"], label.params["round"]) == ("self_training", 2)
        assert label.agreement is not None  # with the label of round 1
    assert load_specialist(result.checkpoint).notes["recipe"] == "self_training"
    assert result.report is not None


def test_the_example_offers_what_it_says(options: RecipeOptions) -> None:
    assert resolve(options).regulariser == "supervised"
    assert resolve(replace(options, regulariser="mean_teacher")).regulariser == "mean_teacher"
    with pytest.raises(ValueError, match="cannot use 'dan'"):
        resolve(replace(options, regulariser="dan"))
