"""A killed training goes on whatever has been damaged meanwhile, and says where; it starts anew only if it must."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.core.labels import LabelSchema
from lib.generalists import create_generalist
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
from lib.recipes.engine import planning
from lib.recipes.engine import run as run_module
from lib.recipes.engine.options import Preset
from lib.specialists import SpecialistSpec, build_network, check_checkpoint, save_specialist
from recipe_runs import CopyPropagator, KilledError
from tiny_study import TINY_LABELS, make_tiny_study

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

OPTIONS = RecipeOptions(seed=3)
PRESET = Preset(3, 2, 3, 2, (4, 8, 8), 6_000, 4_000)


@dataclass
class Killed:
    """Kills a run when it reports a stage of a round.

    Args:
        round: of the kill, None for no kill.
        stage: likewise.
    """

    round: int | None = None
    stage: str = "training"
    rounds: list[int] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    epochs: list[int] = field(default_factory=list)

    def progress(self, progress: Progress) -> None:
        self.notes.add(progress.note)
        self.epochs.append(progress.epoch)
        if (progress.round, progress.stage) == (self.round, self.stage):
            raise KilledError

    def round_finished(self, finished: FinishedRound) -> None:
        self.rounds.append(finished.index)


def run(study: Path, folder: Path, listener: Killed | None = None, options: RecipeOptions = OPTIONS) -> RunResult:
    cases = []
    for image in sorted(study.glob("*.nii.gz")):
        label = study / "labels" / "final" / image.name
        cases.append(Case(image.name.removesuffix(".nii.gz"), image, label if label.exists() else None))
    return run_recipe(
        RunRequest(cases, LabelSchema(TINY_LABELS), options, RecipeSettings(), folder),
        generalist=create_generalist("mind"),
        propagator=CopyPropagator(),
        observer=listener or Killed(),
    )


@pytest.fixture(autouse=True)
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", PRESET)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_study(tmp_path_factory.mktemp("resume") / "study", scans=3)


@pytest.fixture(scope="module")
def stopped(study: Path) -> Path:
    """Runs with a killed one: rounds 0 to 2 are finished, the training of round 3 too, its prediction is not."""
    folder = study.parent / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", PRESET)
        with pytest.raises(KilledError):
            run(study, folder, Killed(3, "prediction"))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(study: Path) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", PRESET)
        return run(study, study.parent / "other")


@pytest.fixture
def runs(stopped: Path, tmp_path: Path) -> Path:
    """A copy of these runs to damage: the folder of the killed one."""
    shutil.copytree(stopped, tmp_path / "runs")
    return next((tmp_path / "runs").glob("run-*"))


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def bit(path: Path) -> None:
    """One other bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def other_structures(path: Path) -> None:
    spec = SpecialistSpec(("liver",), (4, 8), (3.0, 3.0, 3.0), (16, 16, 16))
    save_specialist(path, spec, [build_network(spec)], {"round": 2})


def other_types(path: Path) -> None:
    path.write_text(json.dumps({"names": "case_2", "skipped": [], "best_metric": "high", "files": 7}))


LAST: dict[str, tuple[str, Callable[[Path], object]]] = {
    "round.json is cut": ("round.json", cut),
    "round.json is empty": ("round.json", lambda p: cut(p, 0)),
    "round.json is missing": ("round.json", Path.unlink),
    "round.json is a list": ("round.json", lambda p: p.write_text("[]")),
    "round.json has other types": ("round.json", other_types),
    "round.json lacks everything": ("round.json", lambda p: p.write_text("{}")),
    "round.json is binary": ("round.json", lambda p: p.write_bytes(b"\xff\xfe\x00")),
    "soft label is cut": ("00001-case_2.npz", cut),
    "soft label is empty": ("00001-case_2.npz", lambda p: cut(p, 0)),
    "soft label is missing": ("00001-case_2.npz", Path.unlink),
    "soft label has another bit": ("00001-case_2.npz", bit),
    "label is cut": ("00002-case_3.nii.gz", cut),
    "label is missing": ("00002-case_3.nii.gz", Path.unlink),
    "label has another bit": ("00002-case_3.nii.gz", bit),
    "params are cut": ("00001-case_2.json", cut),
    "params are missing": ("00001-case_2.json", Path.unlink),
    "network is cut": ("specialist.pt", cut),
    "network is empty": ("specialist.pt", lambda p: cut(p, 0)),
    "network is missing": ("specialist.pt", Path.unlink),
    "network has another bit": ("specialist.pt", bit),
    "network is of other structures": ("specialist.pt", other_structures),
}


QUICK = (
    *("round.json is cut", "round.json has other types", "soft label is cut", "soft label is missing"),
    *("label has another bit", "params are cut", "network is cut", "network is of other structures"),
    *("an earlier round", "run.json", "grid of other types", "scan", "outlined label", "history is binary"),
    "training that had ended",
)
"""Of each kind of damage one or two; the others are left to the long tests."""


def kinds(table: dict[str, tuple[str, Callable[[Path], object]]]) -> list[Any]:
    return [pytest.param(*each, id=k, marks=[] if k in QUICK else pytest.mark.soak) for k, each in table.items()]


@pytest.mark.parametrize(("name", "damage"), kinds(LAST))
def test_a_damaged_last_round_falls_back_to_the_one_before(
    study: Path, runs: Path, name: str, damage: Callable[[Path], object]
) -> None:
    damage(runs / "rounds" / "2" / name)
    listener = Killed(2)  # where it goes on
    with pytest.raises(KilledError):
        run(study, runs.parent, listener)
    assert listener.rounds == [1]
    (note,) = listener.notes
    assert note.startswith(f"Training continued after round 1: the files of round 2 ({name} is ")
    assert min(listener.epochs) == 2
    assert not (runs / "rounds" / ".part-3").exists()  # it was made from the damaged round
    assert len(list(runs.parent.glob("run-*"))) == 1


def test_a_run_on_a_damaged_round_ends_as_if_nothing_had_been(
    study: Path, runs: Path, uninterrupted: RunResult
) -> None:
    cut(runs / "rounds" / "2" / "specialist.pt")
    result = run(study, runs.parent)
    assert result.resumed_at == 2
    assert "round 2 (specialist.pt is damaged)" in result.note
    same(result, uninterrupted)


def same(one: RunResult, other: RunResult) -> None:
    """Both have the same labels and the same networks, bit by bit."""
    assert one.best_metric == other.best_metric
    for name, label in one.pseudo_labels.items():
        assert label.path.read_bytes()[10:] == other.pseudo_labels[name].path.read_bytes()[10:]
        assert label.params == other.pseudo_labels[name].params
    a, b = (torch.load(each.checkpoint, weights_only=True)["members"] for each in (one, other))
    assert len(a) == len(b)
    assert all(torch.equal(v, y[k]) for x, y in zip(a, b, strict=True) for k, v in x.items())


ELSEWHERE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "nothing": ("run.json", lambda p: None),
    "an earlier round": ("rounds/1/specialist.pt", cut),
    "the first round": ("rounds/0/round.json", cut),
    "run.json": ("run.json", cut),
    "run.json of other types": ("run.json", lambda p: p.write_text('{"digest": 5, "cases": 1}')),
    "run.json is missing": ("run.json", Path.unlink),
    "state.json": ("state.json", cut),
    "state.json of other types": ("state.json", lambda p: p.write_text('{"finished": "no", "finished_round": []}')),
    "grid": ("prepared/spec.json", cut),
    "grid of other types": ("prepared/spec.json", lambda p: p.write_text('{"label_names": 7, "voxels": "x"}')),
    "another grid": ("prepared/spec.json", lambda p: p.write_text(p.read_text().replace(" 24", " 16"))),
    "scan": ("prepared/00001-case_2.pt", cut),
    "scan is empty": ("prepared/00001-case_2.pt", lambda p: cut(p, 0)),
    "scan is missing": ("prepared/00001-case_2.pt", Path.unlink),
    "scan of other content": ("prepared/00001-case_2.pt", lambda p: torch.save([1, 2], p)),
    "outlined scan": ("prepared/00000-case_1.pt", cut),
    "outlined label": ("prepared/00000-case_1.npz", cut),
    "outlined label is missing": ("prepared/00000-case_1.npz", Path.unlink),
    "half a line of history": ("history.jsonl", lambda p: cut(p, 0.9)),
    "history is binary": ("history.jsonl", lambda p: p.write_bytes(b"\xff\x00\n[1]\n")),
    "history is missing": ("history.jsonl", Path.unlink),
    "training that had ended": ("rounds/.part-3/training-0.pt", cut),
}


@pytest.mark.parametrize(("name", "damage"), kinds(ELSEWHERE))
def test_damage_elsewhere_costs_no_round(
    study: Path, runs: Path, name: str, damage: Callable[[Path], object], uninterrupted: RunResult
) -> None:
    damage(runs / name)
    listener = Killed(3, "refinement")
    with pytest.raises(KilledError):
        run(study, runs.parent, listener)
    assert listener.rounds == [2]
    assert listener.notes == {"Training continued after round 2."}
    assert min(listener.epochs) == 4
    whole = uninterrupted.folder
    for each in ("spec.json", "00000-case_1.npz"):
        assert (runs / "prepared" / each).read_bytes() == (whole / "prepared" / each).read_bytes()
    for each in ("00000-case_1.pt", "00001-case_2.pt", "00002-case_3.pt"):
        one, other = (torch.load(at / "prepared" / each, weights_only=True) for at in (runs, whole))
        assert torch.equal(one["image"], other["image"])
        assert one["frame"] == other["frame"]


def test_an_uninterrupted_run_is_what_a_killed_one_comes_to(
    study: Path, runs: Path, uninterrupted: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the training had ended")

    monkeypatch.setattr("lib.recipes.engine.stages.Trainer", never)
    result = run(study, runs.parent)
    assert (result.resumed_at, result.note) == (3, "Training continued after round 2.")
    same(result, uninterrupted)
    assert uninterrupted.note == ""


def test_when_no_round_is_whole_it_starts_again_and_says_why(study: Path, runs: Path) -> None:
    for index in (1, 2):
        cut(runs / "rounds" / str(index) / "specialist.pt")
    listener = Killed(1)
    with pytest.raises(KilledError):
        run(study, runs.parent, listener)
    assert listener.rounds == [0]
    assert (
        "Training started again: the files of round 0 (00001-case_2.npz is missing) and round 1 ("
        in listener.notes.pop()
    )


def test_two_rounds_of_soft_labels_are_kept_and_no_more(uninterrupted: RunResult) -> None:
    rounds = uninterrupted.folder / "rounds"
    assert [len(list((rounds / str(n)).glob("*.npz"))) for n in range(4)] == [0, 0, 2, 2]
    assert not list(rounds.glob("*/training-*"))


def test_the_space_for_three_rounds_of_soft_labels_is_looked_for(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "quick", replace(PRESET, scan_voxels=120_000, roi_voxels=14_000))
    asked: list[int] = []
    for module in (run_module, planning):
        monkeypatch.setattr(module, "check_space", lambda _, needed: asked.append(needed))
    with pytest.raises(KilledError):
        run(study, tmp_path, Killed(0, "propagation"))
    voxels = 36 * 32 * 28
    assert asked[-1] - asked[0] == pytest.approx(3 * voxels * (2 + 3 * 4), rel=0.2)


def test_a_damaged_label_of_a_round_that_was_begun_is_made_again(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    plain = CopyPropagator.propagate

    def once(self: CopyPropagator, template: Template, *rest: Any) -> SoftLabels:
        if done:
            raise KilledError
        done.append(template.name)
        return plain(self, template, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(CopyPropagator, "propagate", once)
        with pytest.raises(KilledError):
            run(study, tmp_path)
    (folder,) = tmp_path.glob("run-*")
    (label,) = (folder / "rounds" / ".part-0").glob("*.nii.gz")
    before = label.read_bytes()[10:]
    cut(label)
    with pytest.raises(KilledError):
        run(study, tmp_path, Killed(1))
    assert (folder / "rounds" / "0" / label.name).read_bytes()[10:] == before


def test_what_killed_processes_left_in_a_run_is_removed(study: Path, runs: Path) -> None:
    left = [runs / ".part-old.json", runs / "prepared" / ".part-old.pt", runs / "rounds" / ".part-3" / ".part-old.npz"]
    for path in left:
        path.write_text("half")

        os.utime(path, (0, 0))
    with pytest.raises(KilledError):
        run(study, runs.parent, Killed(3, "refinement"))
    assert not any(path.exists() for path in left)


def test_a_network_that_gives_no_sensible_answer_ends_no_round(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = save_specialist

    def broken(path: Path, spec: SpecialistSpec, members: object, *rest: object) -> None:
        networks = [build_network(spec)]
        with torch.no_grad():
            next(networks[0].parameters()).fill_(float("nan"))
        save(path, spec, networks, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("lib.recipes.engine.context.save_specialist", broken)
        with pytest.raises(Exception, match="The network that round 1 has trained cannot be used"):
            run(study, tmp_path, options=replace(OPTIONS, rounds=1))
    result = run(study, tmp_path, options=replace(OPTIONS, rounds=1))
    assert result.resumed_at == 1
    check_checkpoint(result.checkpoint, TINY_LABELS)
