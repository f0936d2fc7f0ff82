"""A round of SemiSAM-O1 on disk: predictions, and the labels that are made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib.recipes import PRESETS
from lib.recipes.engine.options import Preset
from lib.recipes.semisam_o1 import rounds
from recipe_runs import cases_of, run
from tiny_study import make_tiny_study

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_a_prediction_and_the_label_made_of_it_are_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(1, 1, 2, 2, (4, 8), 20_000, 8_000))
    cases = cases_of(make_tiny_study(tmp_path / "study", scans=3))
    refined: list[str] = []
    original = rounds.RoundEvidence.prediction

    def prediction(evidence: rounds.RoundEvidence, name: str) -> object:
        (folder,) = (tmp_path / "runs").glob("run-*/rounds/.part-1")
        predicted = {file.name for file in (folder / "evidence").glob("*.npz")}
        assert len(predicted) == 2 - len(refined)  # those that were refined are gone
        assert len(list(folder.glob("*.npz"))) == len(refined)
        refined.append(name)
        return original(evidence, name)

    monkeypatch.setattr(rounds.RoundEvidence, "prediction", prediction)
    result = run(cases, tmp_path / "runs")
    assert refined == ["case_2", "case_3"]
    folder = result.folder / "rounds" / "1"
    assert not (folder / "evidence").exists()
    labels = sorted(folder.glob("*.npz"))
    assert len(labels) == 2
    with np.load(labels[0]) as content:
        np.testing.assert_allclose(content["probabilities"].astype(float).sum(0), 1, atol=0.01)
