"""Whole runs by several processes: equal round 0, repeatable trainings, bad scans, and kills."""

from __future__ import annotations

import gzip
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.core.json_files import read_json
from lib.core.labels import LabelSchema
from lib.generalists import create_generalist
from lib.parallel.ranks import LostRankError, Ranks
from lib.recipes import PRESETS, RecipeOptions, RecipeSettings, RunRequest, run_recipe
from lib.recipes.engine.options import Preset
from lib.recipes.semisam_o1 import rounds as refined
from lib.report.history import History
from lib.specialists.networks.sam import build as sam_module
from lib.specialists.networks.sam.build import SAM_KINDS, SamKind
from processes import SECONDS, by
from recipe_runs import CopyPropagator, Listener, cases_of
from sam_parts import KINDS, tiny_model
from tiny_study import TINY_LABELS, make_tiny_study

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMA = LabelSchema(TINY_LABELS)
BAD = "case_3"
NAMES = ("semisam_o1", "semisam_plus", "fm_abs", "ssl_medsam2", "sc_sam")

Report = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def small_presets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", Preset(1, 1, 4, 2, (4, 8, 8), 6_000, 4_000))
        kinds = {name: SamKind(tiny_model(name), SAM_KINDS[name].pretrained) for name in KINDS}
        patch.setattr(sam_module, "SAM_KINDS", kinds)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_study(tmp_path_factory.mktemp("study"), scans=5)
    (folder / f"{BAD}.nii.gz").write_bytes(b"this is no scan")
    return folder


def recipe(study: Path, folder: Path, name: str = "semisam_o1", **more: Any) -> Callable[[Ranks], Report]:
    """A run as a function of the processes that share it."""

    def run(ranks: Ranks) -> Report:
        listener = Listener()
        result = run_recipe(
            RunRequest(cases_of(study), SCHEMA, RecipeOptions(recipe=name, seed=3), RecipeSettings(), folder),
            generalist=create_generalist("mind"),
            propagator=more.get("propagator", CopyPropagator()),
            observer=listener,
            ranks=ranks,
        )
        last = listener.steps[-1] if listener.steps else None
        return {
            "folder": result.folder,
            "skipped": result.skipped,
            "resumed_at": result.resumed_at,
            "rounds": [r.index for r in listener.rounds],
            "done": last and (last.epoch, last.total_epochs),
            "report": result.report,
            "epochs": [(e.round, e.training, e.epoch) for e in History(result.folder / "history.jsonl").read()],
        }

    return run


@pytest.fixture(scope="module")
def alone(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Report]:
    """The run of a recipe by one process, undisturbed; each recipe runs once."""
    return cache(lambda name: recipe(study, tmp_path_factory.mktemp(name), name)(Ranks()))


@pytest.fixture(scope="module")
def whole(alone: Callable[[str], Report]) -> Report:
    """A run of the default recipe by one process, undisturbed."""
    return alone("semisam_o1")


@pytest.fixture(scope="module")
def shared(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run by two processes, undisturbed."""
    report: Report = by(2, recipe(study, tmp_path_factory.mktemp("shared")))[0]
    return report


def labels_of(folder: Path, rounds: str = "*") -> dict[str, bytes]:
    """All labels of a run's rounds, byte by byte."""
    found = folder.glob(f"rounds/{rounds}/*.nii.gz")
    return {f"{p.parent.name}/{p.name}": gzip.decompress(p.read_bytes()) for p in found}


def weights_of(folder: Path) -> list[bytes]:
    content = torch.load(folder / "rounds" / "1" / "specialist.pt", weights_only=True)

    def tensors(value: Any) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return [tensor for each in inner for tensor in tensors(each)]

    return [tensor.numpy().tobytes() for tensor in tensors(content)]


def check_shared(name: str, world: int, study: Path, tmp_path: Path, alone: Report) -> None:
    """A recipe ends by so many processes, leaves the same each time, and begins as one process does."""
    found = [by(world, recipe(study, tmp_path / turn, name))[0] for turn in ("first", "second")]
    for report in found:
        assert isinstance(report, dict), repr(report)
        assert report["rounds"] == [0, 1]
        assert sorted(report["epochs"]) == sorted(alone["epochs"])
        assert report["done"] == alone["done"]
        assert labels_of(report["folder"], "0") == labels_of(alone["folder"], "0")
    first, second = (report["folder"] for report in found)
    assert len(labels_of(first, "1")) == 3
    assert labels_of(first) == labels_of(second)
    assert weights_of(first) == weights_of(second)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_every_recipe(
    name: str, study: Path, tmp_path: Path, alone: Callable[[str], Report]
) -> None:
    check_shared(name, 2, study, tmp_path, alone(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_four_processes_train_every_recipe(
    name: str, study: Path, tmp_path: Path, alone: Callable[[str], Report]
) -> None:
    check_shared(name, 4, study, tmp_path, alone(name))


@pytest.mark.slow
def test_round_0_is_as_alone_and_the_same_scan_is_left_out(study: Path, whole: Report, shared: Report) -> None:
    assert list(whole["skipped"]) == list(shared["skipped"]) == [BAD]
    one, two = labels_of(whole["folder"], "0"), labels_of(shared["folder"], "0")
    assert len(one) == 3
    assert one == two
    for path in (whole["folder"] / "rounds" / "0").glob("*case*.json"):  # the facts, too
        assert read_json(path) == read_json(shared["folder"] / "rounds" / "0" / path.name)


@pytest.mark.slow
def test_only_the_first_process_reports(study: Path, tmp_path: Path) -> None:
    first, second = by(2, recipe(study, tmp_path / "two"))
    assert first["rounds"] == [0, 1]
    assert first["report"].is_file()
    assert first["done"] == (1, 1)
    assert first["epochs"] == [(1, 0, 1)]
    assert second["rounds"] == []
    assert second["report"] is None
    assert first["skipped"] == second["skipped"]


class KillsPropagator(CopyPropagator):
    """Kills the process at a scan."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def propagate(self, *arguments: Any) -> Any:
        if os.environ["RANK"] == str(self.rank):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().propagate(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["propagation", "prediction"])
def test_a_killed_process_ends_the_others_and_any_number_goes_on(
    study: Path, whole: Report, shared: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    runs = tmp_path / "runs"
    begun = time.monotonic()
    if stage == "propagation":
        first, second = by(2, recipe(study, runs, propagator=KillsPropagator(1)))
    else:

        def killed(*arguments: Any) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

        def run(ranks: Ranks) -> Report:
            if ranks.rank == 1:
                monkeypatch.setattr(refined, "predict_prepared", killed)
            return recipe(study, runs)(ranks)

        first, second = by(2, run)
    assert time.monotonic() - begun < SECONDS / 2
    assert second == -signal.SIGKILL
    assert isinstance(first, LostRankError)
    assert "has ended" in str(first)
    assert "start again" in str(first)

    (left,) = runs.glob("run-*")
    again = recipe(study, runs)(Ranks()) if stage == "propagation" else by(2, recipe(study, runs))[0]
    assert again["folder"] == left
    assert again["resumed_at"] == (None if stage == "propagation" else 1)
    undisturbed = whole if stage == "propagation" else shared
    assert labels_of(left) == labels_of(undisturbed["folder"])


@pytest.mark.slow
def test_folds_are_shared_and_as_alone(study: Path, tmp_path: Path, alone: Callable[[str], Report]) -> None:
    """Each training of ssl_medsam2 is one process's: nothing differs from a run by one process."""
    whole = alone("ssl_medsam2")
    first, _ = by(2, recipe(study, tmp_path / "two", "ssl_medsam2"))
    assert labels_of(whole["folder"]) == labels_of(first["folder"])
    assert sorted(first["epochs"]) == whole["epochs"] == [(1, fold, 1) for fold in range(5)]
    assert whole["done"] == first["done"] == (5, 5)
