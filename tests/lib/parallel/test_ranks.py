"""Several processes on one run: the same labels for any number of them, bad scans, kills, and what they tell."""

from __future__ import annotations

import gzip
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.core.errors import UserError
from lib.core.json_files import read_json
from lib.core.labels import LabelSchema
from lib.generalists import create_generalist
from lib.parallel.ranks import LostRankError, Ranks, was_launched
from lib.recipes import PRESETS, RecipeOptions, RecipeSettings, RunRequest, run_recipe
from lib.recipes.engine.options import Preset
from lib.recipes.sc_sam.cotraining import CoTraining, CoTrainingPlan
from lib.recipes.semisam_o1 import rounds as refined
from lib.report.history import History
from lib.specialists.networks import build_network
from lib.specialists.networks.sam.build import build_sam
from lib.specialists.precision import MixedPrecision
from lib.specialists.regularisers import build_regulariser
from lib.specialists.spec import SpecialistSpec
from lib.training.loop import TrainingPlan, train
from lib.training.sampling import Batch
from lib.training.shared_step import MOST_PIECES, Pieces, pieces_of
from processes import SECONDS, by
from recipe_runs import CopyPropagator, Listener, cases_of
from tiny_study import TINY_LABELS, make_tiny_study
from training_parts import Shapes

pytestmark = pytest.mark.usefixtures("one_thread")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SCHEMA = LabelSchema(TINY_LABELS)
BAD = "case_3"

Report = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def small_presets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", Preset(1, 1, 2, 2, (4, 8, 8), 60_000, 8_000))
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_study(tmp_path_factory.mktemp("study"), scans=5)
    (folder / f"{BAD}.nii.gz").write_bytes(b"this is no scan")
    return folder


def srun(rank: int, world: int, port: int) -> dict[str, object]:
    """The same of Slurm; the port is made of the job's number."""
    step = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": world, "SLURM_STEP_NUM_TASKS": world}
    job = {"SLURM_JOB_ID": port - 15000, "SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_JOB_NUM_NODES": 1}
    return {**step, **job}


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
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run by one process, undisturbed."""
    report: Report = by(1, recipe(study, tmp_path_factory.mktemp("whole")))[0]
    return report


def labels_of(folder: Path) -> dict[str, bytes]:
    """All labels of a run's rounds, byte by byte."""
    return {f"{p.parent.name}/{p.name}": gzip.decompress(p.read_bytes()) for p in folder.glob("rounds/*/*.nii.gz")}


def weights_of(folder: Path) -> list[torch.Tensor]:
    content = torch.load(folder / "rounds" / "1" / "specialist.pt", weights_only=True)

    def tensors(value: Any) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return [tensor for each in inner for tensor in tensors(each)]

    return tensors(content)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_and_leaves_out_the_same_scan(
    study: Path, whole: Report, tmp_path: Path
) -> None:
    alone = whole
    first, second = by(2, recipe(study, tmp_path / "two"))
    assert first["rounds"] == [0, 1]
    assert second["rounds"] == []  # it reports nothing, and publishes nothing
    assert second["report"] is None
    assert first["report"].is_file()
    assert first["done"] == (1, 1)
    assert first["epochs"] == alone["epochs"] == [(1, 0, 1)]
    assert list(alone["skipped"]) == list(first["skipped"]) == list(second["skipped"]) == [BAD]
    assert alone["skipped"] == second["skipped"]
    one, two = labels_of(alone["folder"]), labels_of(first["folder"])
    assert len(one) == 2 * 3
    assert one == two
    for a, b in zip(weights_of(alone["folder"]), weights_of(first["folder"]), strict=True):
        assert torch.equal(a, b)
    for index in (0, 1):  # soft labels and facts, too
        for path in (alone["folder"] / "rounds" / str(index)).glob("*case*.json"):
            assert read_json(path) == read_json(first["folder"] / "rounds" / str(index) / path.name)


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
    study: Path, whole: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
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
    world = 2 if stage == "prediction" else 1
    again = by(world, recipe(study, runs))
    assert again[0]["folder"] == left
    assert again[0]["resumed_at"] == (None if stage == "propagation" else 1)
    assert labels_of(left) == labels_of(whole["folder"])


@pytest.mark.slow
def test_folds_are_shared_and_as_alone(study: Path, tmp_path: Path) -> None:
    """Each training of ssl_medsam2 is one process's: nothing differs from a run that nobody has launched."""
    alone = recipe(study, tmp_path / "one", "ssl_medsam2")(Ranks())
    first, _ = by(2, recipe(study, tmp_path / "two", "ssl_medsam2"))
    assert labels_of(alone["folder"]) == labels_of(first["folder"])
    assert sorted(first["epochs"]) == alone["epochs"] == [(1, fold, 1) for fold in range(5)]
    assert alone["done"] == first["done"] == (5, 5)


@pytest.mark.slow
@pytest.mark.parametrize("regulariser", ["dtc", "dan"])
def test_steps_in_pieces_are_the_same_for_any_number_of_processes(regulariser: str) -> None:
    """A head on the features, a discriminator; 3 windows by 1, 2 and 4."""
    spec = SpecialistSpec(("a", "b"), (4, 4), (1.0, 1.0, 1.0), (16, 16, 16))

    def run(ranks: Ranks) -> list[bytes]:
        plan = TrainingPlan(epochs=1, iterations=4, batch=3)
        term = build_regulariser(regulariser, plan.steps)
        trained = train(spec, Shapes(), term, plan, device="cpu", seed=0, listener=lambda *_: None, ranks=ranks)
        return [value.numpy().tobytes() for value in trained.members[0].state_dict().values()]

    (alone,) = by(1, run)
    for found in (*by(2, run), *by(4, run)):
        assert found == alone


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_a_gpu)])
def test_gradients_lie_in_memory_as_their_parameters(device: str) -> None:
    """A GPU's AdamW in one computation refuses others; one on a CPU takes any."""
    spec = SpecialistSpec(("one",), (4, 8, 8), (1.0, 1.0, 1.0), (16, 16, 16))
    network = build_network(spec).to(device).train()
    pieces = Pieces(Ranks(), 0, MixedPrecision(device), network)
    images = torch.rand(2, 1, 16, 16, 16, device=device)
    loss = pieces.forward(2, 0, lambda part: network(images[part])).square().mean()
    pieces.descend(loss, torch.optim.AdamW(network.parameters(), fused=device != "cpu" or None), 5.0)
    parameters = [p for p in network.parameters() if p.grad is not None]
    assert any(not p.is_contiguous() for p in parameters)
    assert all(p.grad is not None and p.grad.stride() == p.stride() for p in parameters)


@pytest.mark.slow
def test_two_networks_in_pieces() -> None:
    """SC-SAM's step: what both say, the points between them, and both gradients."""
    spec = SpecialistSpec(("a", "b"), (4, 8), (1.0, 1.0, 1.0), (32, 32, 1), network="sam", slice_axis=2)

    def run(ranks: Ranks) -> list[bytes]:
        torch.manual_seed(0)
        pair = build_sam(spec)
        training = CoTraining(pair, CoTrainingPlan(steps=2, batch=2), ranks=ranks)
        targets = torch.zeros(4, 3, 32, 32, 1)
        targets[:, 0] = 1.0
        human = torch.tensor([True, True, False, False])
        batch = Batch(torch.rand(4, 1, 32, 32, 1), targets, torch.ones(4, 1, 32, 32, 1), human, targets[:, :0])
        for _ in range(2):
            training.step(batch, torch.Generator().manual_seed(1))
        return [value.numpy().tobytes() for value in pair.state_dict().values()]

    (alone,) = by(1, run)
    for found in by(2, run):
        assert found == alone


def test_pieces_do_not_depend_on_who_computes_them() -> None:
    for batch in (1, 2, 3, 6, 16):
        parts = pieces_of(batch)
        assert len(parts) == min(batch, MOST_PIECES)
        assert [n for part in parts for n in range(batch)[part]] == list(range(batch))


def test_facts_and_errors_reach_all() -> None:
    names = ["a", "b", "c", "d", "e"]

    def failing(ranks: Ranks, name: str) -> str:
        if name == "d":
            raise UserError("There is no space left.", status=507)
        return f"{name}{ranks.rank}"

    def no_room() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    def work(ranks: Ranks) -> Report:
        found: Report = {"each": ranks.each(names, lambda name: f"{name}{ranks.rank}")}
        found["once"] = ranks.once(lambda: ranks.rank)
        found["gather"] = ranks.gather(ranks.rank * 10)
        for what, call in (
            ("failed each", lambda: ranks.each(names, lambda name: failing(ranks, name))),
            ("failed once", lambda: ranks.once(lambda: 1 // 0)),
        ):
            try:
                call()
            except UserError as error:
                found[what] = (str(error), error.status)
            except ZeroDivisionError as error:
                found[what] = type(error).__name__
        try:
            ranks.once(no_room)
        except torch.OutOfMemoryError:
            found["no room"] = "its own"
        except UserError as error:
            found["no room"] = (str(error), error.status)
        own = [torch.full((n + 1, 2), float(n)) for n in ranks.share(range(3))]
        found["exchange"] = [part.tolist() for part in ranks.exchange(own, [1, 2, 3], torch.zeros(1, 2))]
        return found

    zero, one = by(2, work)
    assert zero["each"] == one["each"] == {"a": "a0", "b": "b1", "c": "c0", "d": "d1", "e": "e0"}
    assert list(zero["each"]) == names
    assert (zero["once"], one["once"]) == (0, 0)
    assert zero["gather"] == one["gather"] == [0, 10]
    assert one["failed each"] == ("There is no space left.", 507)
    assert zero["failed each"] == ("There is no space left. (process 1 of 2)", 507)
    assert zero["failed once"] == "ZeroDivisionError"
    assert "unexpected error, told in the log of its process" in one["failed once"][0]
    assert zero["no room"] == "its own"  # the caller says it in words
    assert one["no room"][0].startswith("The memory of the GPU does not suffice")
    assert one["no room"][1] == 507
    assert zero["exchange"] == one["exchange"] == [[[float(n)] * 2] * (n + 1) for n in range(3)]


def test_started_by_slurm() -> None:
    found = by(2, lambda ranks: (ranks.gather(ranks.rank), ranks.local, ranks.launched), srun)
    assert found == [([0, 1], 0, True), ([0, 1], 1, True)]
    assert not was_launched()


def test_processes_on_the_cpu_take_no_gpu() -> None:
    # There may be more of them than GPUs, and Ignite would give each the one of its number.
    # Told to each other, as one that ends at once takes the other's connection away while it still joins.
    assert by(2, lambda ranks: ranks.gather(os.environ.get("CUDA_VISIBLE_DEVICES"))) == [["", ""], ["", ""]]


def test_alone_by_itself() -> None:
    alone = Ranks()
    assert (alone.first, alone.launched, alone.gather(1), alone.once(lambda: 2)) == (True, False, [1], 2)
    assert list(alone.share(["a", "b"])) == ["a", "b"]
    assert replace(alone, world=2, local=1).device("cuda:0") == "cuda:1"
    assert alone.device("cuda:3") == "cuda:3"
