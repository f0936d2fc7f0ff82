"""A scan that the outline was not rightly carried over to does not teach, until a specialist is sure of its label."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.core.resampling import resize
from lib.formats.volumes import read_volume
from lib.generalists import Generalist, create_generalist
from lib.propagation import SoftLabels, Template
from lib.recipes import (
    PRESETS,
    Case,
    FinishedRound,
    Progress,
    RecipeOptions,
    RecipeSettings,
    RunRequest,
    RunResult,
    run_recipe,
)
from lib.recipes.engine import labelling
from lib.recipes.engine.label_facts import NOT_LEARNED
from lib.recipes.engine.options import Preset
from lib.training import loop
from tiny_study import TINY_LABELS

pytestmark = pytest.mark.usefixtures("one_thread")


class FailsFor:
    """Puts the template's label over each scan as it lies, and knows that this is wrong for some."""

    name = "copy"

    def __init__(self, study: Path, names: Collection[str]) -> None:
        self.scans = [read_volume(study / f"{name}.nii.gz").array for name in names]

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        frame = frame_of(scan)
        probabilities = resize(frame_of(template.scan).one_hot(template.label, channels), frame.shape)
        found = SoftLabels(frame, probabilities, torch.full(frame.shape, 0.5), (template.name,), 0.5, agreement=0.9)
        failed = any(np.array_equal(scan.array, each) for each in self.scans)
        return replace(found, agreement=0.0) if failed else found


class Rounds:
    """Keeps what is known of the labels of each round."""

    def __init__(self) -> None:
        self.facts: list[dict[str, dict[str, object]]] = []

    def progress(self, progress: Progress) -> None:
        pass

    def round_finished(self, finished: FinishedRound) -> None:
        self.facts.append({name: dict(label.params) for name, label in finished.pseudo_labels.items()})


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


def run(study: Path, folder: Path, failed: Collection[str], rounds: int = 2) -> tuple[RunResult, Rounds]:
    cases = []
    for image in sorted(path for path in study.iterdir() if path.is_file()):
        label = study / "labels" / "final" / image.name
        cases.append(Case(image.name.split(".")[0], image, label if label.exists() else None))
    listener = Rounds()
    request = RunRequest(
        cases, LabelSchema(TINY_LABELS), RecipeOptions(seed=3, rounds=rounds), RecipeSettings(), folder
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", Preset(2, 1, 2, 2, (4, 8, 8), 6_000, 4_000))
        result = run_recipe(
            request, generalist=create_generalist("mind"), propagator=FailsFor(study, failed), observer=listener
        )
    return result, listener


def test_a_scan_that_the_outline_was_wrongly_carried_over_to_does_not_teach(
    study: Path, tmp_path: Path, learned_from: list[set[str]], caplog: pytest.LogCaptureFixture
) -> None:
    _, listener = run(study, tmp_path / "runs", ["case_3"], rounds=1)
    assert learned_from == [{"case_2", "case_4"}]
    assert NOT_LEARNED in listener.facts[0]["case_3"]["warnings"]  # type: ignore[operator]
    assert "warnings" not in listener.facts[0]["case_2"]
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
    facts = listener.facts[1]["case_3"]
    assert (NOT_LEARNED not in facts.get("warnings", ())) == learned  # type: ignore[operator]
    held = any(volume > 0 for volume in facts["volume_ml"].values())  # type: ignore[attr-defined]
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
