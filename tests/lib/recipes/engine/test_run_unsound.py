"""A scan that the outline was not rightly carried over to does not teach, until a specialist is sure of its label."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest

import recipe_runs
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.formats.volumes import read_volume
from lib.generalists import Generalist
from lib.propagation import SoftLabels, Template
from lib.recipes import PRESETS, RunResult
from lib.recipes.engine import labelling
from lib.recipes.engine.label_facts import NOT_LEARNED
from lib.recipes.engine.options import Preset
from lib.training import loop
from recipe_runs import OPTIONS, CopyPropagator, Listener, cases_of

pytestmark = pytest.mark.usefixtures("one_thread")


class FailsFor(CopyPropagator):
    """Puts the template's label over each scan as it lies, and knows that this is wrong for some."""

    def __init__(self, study: Path, names: Collection[str]) -> None:
        self.scans = [read_volume(study / f"{name}.nii.gz").array for name in names]

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        failed = any(np.array_equal(scan.array, each) for each in self.scans)
        return replace(super().propagate(template, scan, channels, generalist), agreement=0.0 if failed else 0.9)


@pytest.fixture
def learned_from(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The scans with a pseudo-label that each training draws from."""
    seen: list[set[str]] = []
    begin = loop.Trainer.__init__

    def noted(self: loop.Trainer, spec: object, source: object, *others: object, **more: object) -> None:
        seen.append(set(source.pseudo()))  # type: ignore[attr-defined]
        begin(self, spec, source, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Trainer, "__init__", noted)
    return seen


def run(study: Path, folder: Path, failed: Collection[str], rounds: int = 2) -> tuple[RunResult, Listener]:
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", Preset(2, 1, 2, 2, (4, 8, 8), 6_000, 4_000))
        options = replace(OPTIONS, rounds=rounds)
        result = recipe_runs.run(cases_of(study), folder, listener, options, propagator=FailsFor(study, failed))
    return result, listener


def facts(listener: Listener, index: int, name: str) -> dict[str, Any]:
    """What is known of the label of a scan in a round."""
    return dict(listener.rounds[index].pseudo_labels[name].params)


def test_a_scan_that_the_outline_was_wrongly_carried_over_to_does_not_teach(
    study: Path, tmp_path: Path, learned_from: list[set[str]], caplog: pytest.LogCaptureFixture
) -> None:
    _, listener = run(study, tmp_path / "runs", ["case_3"], rounds=1)
    assert learned_from == [{"case_2", "case_4"}]
    assert NOT_LEARNED in facts(listener, 0, "case_3")["warnings"]
    assert "warnings" not in facts(listener, 0, "case_2")
    assert "nothing is learned from case_3" in caplog.text


@pytest.mark.parametrize(("confidence", "learned"), [(0.0, True), (1.1, False)])
def test_it_comes_back_when_the_specialist_is_sure_of_it(
    study: Path,
    tmp_path: Path,
    learned_from: list[set[str]],
    monkeypatch: pytest.MonkeyPatch,
    confidence: float,
    learned: bool,
) -> None:
    monkeypatch.setattr(labelling, "_SOUND_CONFIDENCE", confidence)
    monkeypatch.setattr(labelling, "missing_in", lambda study, label: ())
    _, listener = run(study, tmp_path / "runs", ["case_3"])
    assert "case_3" not in learned_from[0]
    known = facts(listener, 1, "case_3")
    assert (NOT_LEARNED not in known.get("warnings", ())) == learned
    held = any(volume > 0 for volume in known["volume_ml"].values())
    assert ("case_3" in learned_from[1]) == (learned and held)


def test_when_the_outline_fits_no_scan_the_training_says_so(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"outlined in case_1 was rightly carried over to none of the other 3 scans"):
        run(study, tmp_path / "runs", ["case_2", "case_3", "case_4"])


def test_one_odd_scan_does_not_keep_a_study_that_is_outlined_from_training(
    study: Path, tmp_path: Path, learned_from: list[set[str]]
) -> None:
    labels = study / "labels" / "final"
    for name in ("case_2", "case_3"):
        copyfile(labels / "case_1.nii.gz", labels / f"{name}.nii.gz")
    result, _ = run(study, tmp_path / "runs", ["case_4"], rounds=1)
    assert result.checkpoint is not None
    assert learned_from == [set()]
