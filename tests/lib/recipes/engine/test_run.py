"""The recipe from end to end on a tiny study, and bad input."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.propagation import create_propagator
from lib.recipes import RecipeSettings, RunResult
from lib.recipes.engine.prepared_study import SoftTarget
from lib.recipes.semisam_o1.earlier_rounds import with_earlier
from lib.specialists import load_specialist, predict
from recipe_runs import OPTIONS, SCHEMA, Listener, cases_of, run
from tiny_study import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.usefixtures("one_thread", "small_presets")


@dataclass(frozen=True)
class Finished:
    """A run to its end: its study, what it gave, what it reported and what it logged."""

    study: Path
    result: RunResult
    listener: Listener
    log: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run with nothing left out: the default propagator, two rounds, a report."""
    folder = tmp_path_factory.mktemp("finished")
    study, listener, words = make_tiny_study(folder / "study"), Listener(), io.StringIO()
    log, handler = logging.getLogger("semisam.train"), logging.StreamHandler(words)
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        result = run(cases_of(study), folder / "runs", listener, propagator=create_propagator("registration"))
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    return Finished(study, result, listener, words.getvalue())


@pytest.mark.slow
def test_from_one_label_to_a_specialist(finished: Finished) -> None:
    study, result, listener = finished.study, finished.result, finished.listener
    assert [r.index for r in listener.rounds] == [0, 1, 2]
    assert result.rounds == 2
    assert result.resumed_at is None
    assert result.skipped == {}
    assert set(result.pseudo_labels) == {"case_2", "case_3", "case_4"}
    for source, ended in zip(("propagation", "specialist", "specialist"), listener.rounds, strict=True):
        for name, label in ended.pseudo_labels.items():
            scan = read_volume(study / f"{name}.nii.gz")
            labels = read_label(label.path, scan, SCHEMA)
            params: Any = label.params
            assert list(params["label_names"].items()) == [("ball", 1), ("rod", 2)]
            assert params["volume_ml"]["ball"] == pytest.approx((labels == 1).sum() * 0.027, rel=1e-3)
            assert params["templates"] == ["case_1"]
            assert (params["round"], params["source"]) == (ended.index, source)
            assert 0 <= params["confidence"] <= 1
            assert 0 <= params["uncertainty"] <= 1

    last = listener.steps[-1]
    assert (last.epoch, last.total_epochs, last.round, last.rounds) == (4, 4, 2, 2)
    assert {s.stage for s in listener.steps} == {"propagation", "training", "prediction", "refinement"}
    assert [s.epoch for s in listener.steps] == sorted(s.epoch for s in listener.steps)
    assert all(isinstance(s.best_metric, float) and 0 <= s.best_metric <= 1 for s in listener.steps)
    assert result.best_metric == listener.rounds[-1].best_metric > 0
    assert "left" in finished.log

    specialist = load_specialist(result.checkpoint)
    assert specialist.notes["round"] == 2
    assert specialist.spec.label_names == TINY_LABELS
    assert predict(specialist, read_volume(study / "case_2.nii.gz")).labels().shape == (36, 32, 28)


@pytest.mark.slow
def test_same_seed_same_pseudo_labels(study: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, rounds=1)
    first = run(cases_of(study), tmp_path / "a", options=options)
    second = run(cases_of(study), tmp_path / "b", options=options)
    for name, label in first.pseudo_labels.items():
        assert label.path.read_bytes()[10:] == second.pseudo_labels[name].path.read_bytes()[10:]
    other = run(cases_of(study), tmp_path / "c", options=replace(options, seed=4))
    a, b = (torch.load(r.checkpoint, weights_only=True)["members"][0] for r in (first, other))
    assert any(not torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_scans_that_cannot_be_read_are_left_out(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = study / "case_3.nii.gz"
    broken.write_bytes(broken.read_bytes()[:3000])
    result = run(cases_of(study), tmp_path / "runs", options=replace(OPTIONS, rounds=1))
    assert set(result.pseudo_labels) == {"case_2", "case_4"}
    assert set(result.skipped) == {"case_3"}
    assert "case_3" in caplog.text
    for name in ("case_2", "case_4"):
        (study / f"{name}.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match="None of the scans without a label can be used"):
        run(cases_of(study), tmp_path / "runs")


def test_without_a_usable_label_nothing_starts(study: Path, tmp_path: Path) -> None:
    nothing = [replace(case, label=None) for case in cases_of(study)]
    with pytest.raises(UserError, match="has a 'final' label yet") as error:
        run(nothing, tmp_path / "runs")
    assert error.value.status == 409
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", np.zeros((36, 32, 28), np.uint8), tiny_scan(1)[2])
    with pytest.raises(UserError, match="is empty"):
        run(cases_of(study), tmp_path / "runs")


@pytest.mark.slow
def test_human_labels_only(study: Path, tmp_path: Path) -> None:
    listener = Listener()
    result = run(cases_of(study)[:1], tmp_path / "runs", listener)
    assert result.rounds == 1
    assert result.pseudo_labels == {}
    assert listener.steps[-1].total_epochs == 2
    assert load_specialist(result.checkpoint).spec.label_names == TINY_LABELS


@pytest.mark.slow
def test_a_template_that_lacks_a_class(study: Path, tmp_path: Path) -> None:
    label, affine = tiny_scan(1)[1:]
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", (label == 1).astype(np.uint8), affine)
    result = run(cases_of(study), tmp_path / "runs", options=replace(OPTIONS, rounds=1))
    assert len(result.pseudo_labels) == 3


@pytest.mark.slow
def test_settings_decide_spacing_and_window(study: Path, tmp_path: Path) -> None:
    settings = RecipeSettings(spacing=(4.0, 4.0, 5.0), roi_size=(48, 32, 32))
    result = run(cases_of(study)[:2], tmp_path / "runs", options=replace(OPTIONS, rounds=1), settings=settings)
    spec = load_specialist(result.checkpoint).spec
    assert (spec.spacing, spec.roi_size) == ((4.0, 4.0, 5.0), (48, 32, 32))
    with pytest.raises(UserError, match="roi_size"):
        run(cases_of(study)[:2], tmp_path / "runs", settings=replace(settings, roi_size=(4, 4, 4)))


@pytest.mark.slow
def test_rounds_end_when_the_labels_no_longer_change(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.recipes.semisam_o1.earlier_rounds.SETTLED", 0.0)  # any agreement will do
    result = run(cases_of(study), tmp_path / "runs")
    assert result.rounds == 1
    assert load_specialist(result.checkpoint).notes["round"] == 1
    assert all("agreement" in label.params for label in result.pseudo_labels.values())


@pytest.mark.slow
def test_a_finished_run_has_a_report_with_its_curves_and_cases(finished: Finished) -> None:
    result = finished.result
    assert result.report is not None
    page = result.report.read_text(encoding="utf-8")
    assert "<svg" in page
    assert page.count("data:image/png;base64,") == 4  # the outlined scan and three others
    for text in ("Most confident", "Least confident", "round 2", "human_loss", "case_1", "mind"):
        assert text in page
    assert (result.folder / "environment.json").is_file()


@pytest.mark.slow
def test_a_run_whose_report_cannot_be_written_is_finished_all_the_same(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no picture today")

    monkeypatch.setattr("lib.recipes.engine.summary.montage", fail)
    result = run(cases_of(study), tmp_path / "runs", options=replace(OPTIONS, rounds=1))
    assert result.report is None
    assert result.checkpoint.is_file()
    assert "The report could not be written" in caplog.text


def test_pseudo_labels_keep_a_share_of_the_round_before() -> None:
    old = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(2, 2, 1, 1)
    new = old.flip(0)

    def at(target: SoftTarget | None, *, unsound: bool = False) -> Any:
        return SimpleNamespace(study=SimpleNamespace(current=lambda _: target, is_unsound=lambda _: unsound))

    before = SoftTarget(old.half(), torch.ones(2, 1, 1).half())
    joined = with_earlier(at(before), "case", new)
    torch.testing.assert_close(joined.sum(0), torch.ones(2, 1, 1))
    assert torch.equal(joined.argmax(0), new.argmax(0))
    assert 0.2 < float(joined[1, 0]) < 0.5  # where both differ, the label is unsure
    assert with_earlier(at(None), "case", new) is new
    assert with_earlier(at(before, unsound=True), "case", new) is new
