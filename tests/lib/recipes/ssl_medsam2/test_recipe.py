"""SSL-MedSAM2 from end to end on a tiny study: who learns from whom, its resumption after a kill, few scans."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.core.errors import UserError
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.recipes import PRESETS, Progress, RecipeOptions, RunResult, resolve
from lib.recipes.engine.kept_training import TrainingNumber
from lib.recipes.engine.options import Preset
from lib.recipes.engine.progress import Reporter
from lib.recipes.ssl_medsam2 import recipe as recipe_module
from lib.recipes.ssl_medsam2.folds import Fold, FoldSource, choose_folds
from lib.specialists import load_specialist, predict
from lib.training.sample import Sample
from recipe_runs import SCHEMA, KilledError, Listener, cases_of, run
from tiny_study import TINY_LABELS, make_tiny_study

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = RecipeOptions(recipe="ssl_medsam2", seed=3, rounds=1)


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(2, 2, 2, 2, (4, 8, 8), 6_000, 6_000))


@pytest.fixture(autouse=True)
def reporters(monkeypatch: pytest.MonkeyPatch) -> list[Reporter]:
    """The reporters of all runs of a test."""
    made: list[Reporter] = []
    module = import_module("lib.recipes.engine.planning")

    def make(*args: Any) -> Reporter:
        made.append(Reporter(*args))
        return made[-1]

    monkeypatch.setattr(module, "Reporter", make)
    return made


def start(study: Path, folder: Path, listener: Listener | None = None, **changes: Any) -> RunResult:
    return run(cases_of(study), folder, listener, replace(OPTIONS, **changes))


def folds_of(result: RunResult, index: int = 1) -> list[dict[str, list[str]]]:
    content = json.loads((result.folder / "rounds" / str(index) / "folds.json").read_text(encoding="utf-8"))
    folds: list[dict[str, list[str]]] = content["folds"]
    return folds


def test_each_scan_is_held_out_once_while_there_are_enough_scans() -> None:
    names = [f"s{n}" for n in range(13)]
    folds = choose_folds(names, 5, seed=1)
    held_out = [name for fold in folds for name in fold.held_out]
    assert [fold.number for fold in folds] == [0, 1, 2, 3, 4]
    assert sorted(held_out) == sorted(names)
    assert sorted(len(fold.held_out) for fold in folds) == [2, 2, 3, 3, 3]
    assert choose_folds(names, 5, seed=1) == folds != choose_folds(names, 5, seed=2)


@pytest.mark.parametrize("scans", [0, 1, 2, 3, 4])
def test_few_scans_are_held_out_several_times(scans: int) -> None:
    names = [f"s{n}" for n in range(scans)]
    folds = choose_folds(names, 5, seed=0)
    assert len(folds) == 5
    assert all(len(fold.held_out) == min(1, scans) for fold in folds)
    assert {name for fold in folds for name in fold.held_out} == set(names)


def test_a_fold_is_out_of_the_training_s_reach() -> None:
    class Everything:
        def human(self) -> list[str]:
            return ["h"]

        def pseudo(self) -> list[str]:
            return ["a", "b", "c"]

        def sample(self, name: str) -> Sample:
            return Sample(torch.zeros(1, 1, 1, 1), torch.ones(2, 1, 1, 1), torch.ones(1, 1, 1, 1))

    source = FoldSource(Everything(), Fold(0, ("b",)))
    assert (list(source.human()), list(source.pseudo())) == (["h"], ["a", "c"])
    assert source.sample("a").image.shape == (1, 1, 1, 1)
    with pytest.raises(KeyError):
        source.sample("b")


@pytest.mark.slow
def test_from_one_label_to_the_mean_of_five_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporters: list[Reporter]
) -> None:
    study = make_tiny_study(tmp_path / "study", scans=8)
    unlabelled = {f"case_{n}" for n in range(2, 9)}
    drawn: list[set[str]] = []  # scans that each training really drew from
    asked: dict[str, list[int]] = {}  # trainings whose networks predicted a scan
    original = recipe_module.FoldSource

    class Watched(original):  # type: ignore[misc,valid-type]
        def __init__(self, source: Any, fold: Fold) -> None:
            super().__init__(source, fold)
            self.seen: set[str] = set()
            watched.append(self)

        def sample(self, name: str) -> Sample:
            self.seen.add(name)
            return super().sample(name)

    watched: list[Watched] = []
    original_label = recipe_module.label_study

    def label(run: Any, index: int, members_of: Any) -> Any:
        drawn.extend(source.seen for source in watched if source.seen)
        trained = [members_of(name) for name in run.study.unlabelled()]
        everyone = list(dict.fromkeys(member for members in trained for member in members))
        for name, members in zip(run.study.unlabelled(), trained, strict=True):
            asked[name] = [everyone.index(member) for member in members]
        return original_label(run, index, members_of)

    monkeypatch.setattr(recipe_module, "FoldSource", Watched)
    monkeypatch.setattr(recipe_module, "label_study", label)
    listener = Listener()
    result = start(study, tmp_path / "runs", listener, max_epochs=4)

    folds = folds_of(result)
    assert len(folds) == len(drawn) == 5
    assert sorted(name for fold in folds for name in fold["held_out"]) == sorted(unlabelled)
    for fold, seen in zip(folds, drawn, strict=True):
        assert fold["human"] == ["case_1"]
        assert set(fold["pseudo"]) == unlabelled - set(fold["held_out"])
        assert seen == {"case_1", *fold["pseudo"]}
    assert set(asked) == unlabelled
    by_training: dict[int, set[str]] = {}
    for name, numbers in asked.items():
        assert len(numbers) == 1
        by_training.setdefault(numbers[0], set()).add(name)
    assert sorted(map(sorted, by_training.values())) == sorted(sorted(fold["held_out"]) for fold in folds)

    assert set(result.pseudo_labels) == unlabelled
    for name, pseudo in result.pseudo_labels.items():
        scan = read_volume(study / f"{name}.nii.gz")
        assert set(read_label(pseudo.path, scan, SCHEMA).ravel()) <= {0, 1, 2}
        params: Any = pseudo.params
        assert (params["round"], params["source"], params["templates"]) == (1, "specialist", ["case_1"])
        assert params["recipe"] == "ssl_medsam2"
    last = listener.steps[-1]
    assert (last.epoch, last.total_epochs, last.round, last.stage) == (20, 20, 1, "prediction")
    assert reporters[-1].seconds_left() == 0
    assert [s.epoch for s in listener.steps] == sorted(s.epoch for s in listener.steps)

    specialist = load_specialist(result.checkpoint)
    assert len(specialist.members) == 5
    assert (specialist.spec.network, specialist.spec.label_names) == ("dynunet", TINY_LABELS)
    assert predict(specialist, read_volume(study / "case_2.nii.gz")).labels().shape == (36, 32, 28)
    assert not list((result.folder / "rounds" / "1").glob("fold-*"))


@pytest.mark.slow
@pytest.mark.parametrize("scans", [1, 2, 4, 5])
def test_few_scans_and_none_without_a_label(scans: int, tmp_path: Path, reporters: list[Reporter]) -> None:
    study = make_tiny_study(tmp_path / "study", scans=scans)
    listener = Listener()
    result = start(study, tmp_path / "runs", listener, network="unet3d", max_epochs=1)
    assert set(result.pseudo_labels) == {f"case_{n}" for n in range(2, scans + 1)}
    assert len(load_specialist(result.checkpoint).members) == 5
    for fold in folds_of(result):
        assert len(fold["held_out"]) == min(1, scans - 1)
        assert not set(fold["held_out"]) & set(fold["pseudo"])
    assert (listener.steps[-1].epoch, listener.steps[-1].total_epochs) == (5, 5)
    assert reporters[-1].seconds_left() == 0


@pytest.mark.slow
def test_same_seed_same_pseudo_labels(tmp_path: Path) -> None:
    study = make_tiny_study(tmp_path / "study", scans=3)
    first, second = (start(study, tmp_path / name, max_epochs=1) for name in "ab")
    for name, label in first.pseudo_labels.items():
        assert label.path.read_bytes()[10:] == second.pseudo_labels[name].path.read_bytes()[10:]


@pytest.mark.slow
def test_a_killed_round_goes_on_at_the_next_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporters: list[Reporter]
) -> None:
    study = make_tiny_study(tmp_path / "study", scans=4)
    whole = start(study, tmp_path / "whole", rounds=2, max_epochs=1)

    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            if progress.round == 2 and progress.epoch == 8:  # as the third fold of the second round ends
                raise KilledError

    with pytest.raises(KilledError):
        start(study, tmp_path / "runs", Fragile(), rounds=2, max_epochs=1)
    (folder,) = (tmp_path / "runs").glob("run-*")
    kept = sorted(p.name for p in (folder / "rounds" / ".part-2").glob("fold-*"))
    assert kept == ["fold-0.pt", "fold-1.pt"]

    trained: list[int] = []
    original = recipe_module.train_round

    def counting(run: Any, number: TrainingNumber, *args: Any, **kwargs: Any) -> Any:
        trained.append(number.number)
        return original(run, number, *args, **kwargs)

    monkeypatch.setattr(recipe_module, "train_round", counting)
    listener = Listener()
    result = start(study, tmp_path / "runs", listener, rounds=2, max_epochs=1)
    assert result.folder == folder
    assert result.resumed_at == 2
    assert trained == [2, 3, 4]
    assert (listener.steps[-1].epoch, listener.steps[-1].total_epochs) == (10, 10)
    assert reporters[-1].seconds_left() == 0
    assert folds_of(result, 2) == folds_of(whole, 2)
    for name, label in whole.pseudo_labels.items():
        assert label.path.read_bytes()[10:] == result.pseudo_labels[name].path.read_bytes()[10:]
    a, b = (load_specialist(r.checkpoint).members for r in (whole, result))
    for one, other in zip(a, b, strict=True):
        assert all(
            torch.equal(x, y) for x, y in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_what_it_trains_by_default() -> None:
    options = resolve(OPTIONS)
    assert (options.network, options.regulariser) == ("dynunet", "supervised")
    with pytest.raises(UserError, match="cannot use 'sam'"):
        resolve(replace(OPTIONS, network="sam"))
