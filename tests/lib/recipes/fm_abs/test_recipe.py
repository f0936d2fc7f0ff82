"""The recipe fm_abs from end to end on a tiny study with three outlined slices a scan."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.core.sparse_labels import Planes
from lib.generalists import create_generalist
from lib.propagation import create_propagator
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
from lib.recipes.choices import resolve
from lib.recipes.engine.options import Preset
from lib.training.loop import StepListener, Trained, Trainer
from tiny_study import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMA = LabelSchema(TINY_LABELS)
OPTIONS = RecipeOptions(recipe="fm_abs", seed=3)
AT = (12, 15, 14)


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


@dataclass
class Listener:
    """Remembers everything, and kills the run where it is told to."""

    kill: tuple[int, str] | None = None
    steps: list[Progress] = field(default_factory=list)
    rounds: list[FinishedRound] = field(default_factory=list)

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress)
        if (progress.round, progress.stage) == self.kill:
            raise KilledError

    def round_finished(self, finished: FinishedRound) -> None:
        self.rounds.append(finished)


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(2, 2, 2, 2, (4, 8), 20_000, 14_000))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Four scans; two have three outlined slices."""
    folder = make_tiny_study(tmp_path / "study", finals=2)
    for number in (1, 2):
        sparse(folder, number)
    return folder


def sparse(folder: Path, number: int) -> None:
    _, label, affine = tiny_scan(number)
    kept = np.where(Planes(AT).mask(label.shape), label, 0).astype(np.uint8)
    save_nifti(folder / "labels" / "final" / f"case_{number}.nii.gz", kept, affine)


def cases_of(study: Path) -> list[Case]:
    cases = []
    for image in sorted(study.glob("*.nii.gz")):
        label = study / "labels" / "final" / image.name
        cases.append(Case(image.name.removesuffix(".nii.gz"), image, label if label.exists() else None))
    return cases


def run(
    cases: Sequence[Case], folder: Path, listener: Listener | None = None, options: RecipeOptions = OPTIONS
) -> RunResult:
    return run_recipe(
        RunRequest(cases, SCHEMA, options, RecipeSettings(), folder),
        generalist=create_generalist("mind"),
        propagator=create_propagator("registration"),
        observer=listener or Listener(),
    )


def digests(result: RunResult) -> dict[str, str]:
    return {
        name: hashlib.sha256(label.path.read_bytes()[10:]).hexdigest() for name, label in result.pseudo_labels.items()
    }


@pytest.mark.slow
def test_from_three_slices_to_a_specialist_and_the_same_after_a_kill(study: Path, tmp_path: Path) -> None:
    listener = Listener()
    whole = run(cases_of(study), tmp_path / "whole", listener)
    assert [r.index for r in listener.rounds] == [0, 1, 2]
    assert listener.rounds[0].pseudo_labels == {}
    assert set(whole.pseudo_labels) == {"case_3", "case_4"}
    assert whole.skipped == {}
    assert all(label.params["recipe"] == "fm_abs" for label in whole.pseudo_labels.values())
    assert all(label.params["templates"] == ["case_1", "case_2"] for label in whole.pseudo_labels.values())
    training = [s.metrics for s in listener.steps if s.stage == "training"]
    assert all(np.isfinite(list(m.values())).all() for m in training)
    last = listener.steps[-1]
    assert (last.epoch, last.total_epochs, last.round, last.rounds) == (4, 4, 2, 2)

    with pytest.raises(KilledError):
        run(cases_of(study), tmp_path / "killed", Listener(kill=(2, "prediction")))
    again = Listener()
    resumed = run(cases_of(study), tmp_path / "killed", again)
    assert resumed.resumed_at == 2
    assert [r.index for r in again.rounds] == [1, 2]
    assert digests(resumed) == digests(whole)


@pytest.mark.slow
def test_the_generalists_term_has_a_gradient_in_a_real_training(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(1, 1, 16, 2, (4, 8), 20_000, 14_000))
    metrics: list[dict[str, float]] = []
    original = Trainer.train

    def listening(trainer: Trainer, seed: int, listener: StepListener) -> Trained:
        def listen(step: int, found: dict[str, float]) -> None:
            metrics.append(found)
            listener(step, found)

        return original(trainer, seed, listen)

    monkeypatch.setattr(Trainer, "train", listening)
    run(cases_of(study), tmp_path / "runs")
    assert len(metrics) == 16
    asked = [m["generalist_gradient"] for m in metrics if "generalist_gradient" in m]
    assert len(asked) > 5
    assert all(norm > 0 for norm in asked)
    assert all("regulariser" in m for m in metrics)


@pytest.mark.slow
def test_whole_and_sparse_outlines_together(study: Path, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(1)
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", label, affine)
    options = replace(OPTIONS, rounds=1)
    assert set(run(cases_of(study), tmp_path / "a", options=options).pseudo_labels) == {"case_3", "case_4"}
    # A recipe that carries labels over takes the whole one, and learns from both.
    found = run(cases_of(study), tmp_path / "b", options=replace(options, recipe="semisam_o1"))
    assert all(label.params["templates"] == ["case_1"] for label in found.pseudo_labels.values())


def test_recipes_that_carry_labels_over_refuse_sparse_ones(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recipe fm_abs") as error:
        run(cases_of(study), tmp_path / "runs", options=RecipeOptions())
    assert error.value.status == 409


@pytest.mark.slow
def test_all_scans_outlined(study: Path, tmp_path: Path) -> None:
    result = run(cases_of(study)[:2], tmp_path / "runs")
    assert result.rounds == 1
    assert result.pseudo_labels == {}


@pytest.mark.slow
def test_a_wrong_statement_leaves_the_scan_out(study: Path, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(1)
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", label, affine)
    first, *others = cases_of(study)
    result = run([replace(first, annotated="planes"), *others], tmp_path / "runs", options=replace(OPTIONS, rounds=1))
    assert "no three planes" in result.skipped["case_1"]


def test_other_regularisers_are_refused() -> None:
    assert resolve(OPTIONS).regulariser == "mean_teacher"
    with pytest.raises(UserError, match="mean_teacher"):
        resolve(replace(OPTIONS, regulariser="dan"))
