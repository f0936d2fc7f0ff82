"""A training that was killed goes on where it was, or starts anew where it must."""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib.recipes import PRESETS, FinishedRound, Progress
from lib.recipes.engine import round_zero
from lib.recipes.engine.options import Preset
from recipe_runs import OPTIONS, KilledError, Listener, cases_of, run
from tiny_study import make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.usefixtures("one_thread", "small_presets")


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.suffix != ".npz"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans, of which the first is outlined; no test here changes them."""
    return make_tiny_study(tmp_path_factory.mktemp("killed") / "study")


@pytest.fixture(scope="module")
def stopped(study: Path) -> Path:
    """Runs with one that was killed in round 2, after its training."""

    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.round == 2 and progress.stage == "prediction":
                raise KilledError

    with pytest.raises(KilledError):
        run(cases_of(study), study.parent / "runs", Fragile())
    return study.parent / "runs"


@pytest.fixture
def runs(stopped: Path, tmp_path: Path) -> Path:
    """A copy of these runs to go on with."""
    return Path(shutil.copytree(stopped, tmp_path / "runs"))


@pytest.mark.slow
def test_a_killed_training_goes_on_at_the_round(study: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder,) = runs.glob("run-*")
    before = [digests(folder / "rounds" / n) for n in "01"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the propagation was finished")

    monkeypatch.setattr(round_zero, "propagate_from", never)
    listener = Listener()
    result = run(cases_of(study), runs, listener)
    assert result.folder == folder
    assert result.resumed_at == 2
    assert [r.index for r in listener.rounds] == [1, 2]
    assert [digests(folder / "rounds" / n) for n in "01"] == before
    assert min(s.epoch for s in listener.steps) == 2
    assert not list(folder.glob("rounds/.part-*"))

    monkeypatch.undo()
    monkeypatch.setitem(PRESETS, "quick", Preset(1, 1, 2, 2, (4, 8, 8), 6_000, 4_000))
    assert run(cases_of(study), runs).resumed_at is None


@pytest.mark.slow
def test_a_damaged_round_is_made_again(study: Path, runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder,) = runs.glob("run-*")
    (folder / "rounds" / "1" / "round.json").write_text("")
    with caplog.at_level(logging.WARNING, "semisam.train"):
        result = run(cases_of(study), runs)
    assert "round 1" in caplog.text
    assert "damaged" in caplog.text
    assert result.resumed_at == 1
    assert result.folder == folder
    assert len(result.pseudo_labels) == 3
    assert result.checkpoint.is_file()


@pytest.mark.slow
def test_what_a_preset_stands_for_may_change_between_versions(
    study: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], epochs=3))
    assert run(cases_of(study), runs).resumed_at is None


@pytest.mark.slow
def test_a_kill_in_round_0_keeps_the_scans_that_are_done(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = round_zero.propagate_from

    def counting(*args: Any, **kwargs: Any) -> Any:
        if len(asked) == 2:
            asked.append("killed")
            raise KilledError
        asked.append("scan")
        return original(*args, **kwargs)

    monkeypatch.setattr(round_zero, "propagate_from", counting)
    with pytest.raises(KilledError):
        run(cases_of(study), tmp_path / "runs")
    result = run(cases_of(study), tmp_path / "runs", options=OPTIONS)
    assert asked == ["scan", "scan", "killed", "scan"]
    assert result.resumed_at is None  # no round was finished
    assert len(list((tmp_path / "runs").glob("run-*"))) == 1


@pytest.mark.slow
def test_changed_input_starts_a_new_run_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = make_tiny_study(tmp_path / "study")

    class Fragile(Listener):
        def round_finished(self, finished: FinishedRound) -> None:
            raise KilledError

    with pytest.raises(KilledError):
        run(cases_of(study), tmp_path / "runs", Fragile())
    label, affine = tiny_scan(1)[1:]
    label[0, 0, 0] = 1
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", label, affine)
    with caplog.at_level(logging.INFO, "semisam.train"):
        again = run(cases_of(study), tmp_path / "runs", options=replace(OPTIONS, rounds=1))
    assert again.resumed_at is None
    assert "cases (case_1), options (rounds) changed" in caplog.text
    assert len(list((tmp_path / "runs").glob("run-*"))) == 2
