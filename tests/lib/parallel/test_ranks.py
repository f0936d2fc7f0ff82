"""What the processes of a run tell each other, and how they find each other."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from lib.core.errors import UserError
from lib.parallel.ranks import LostRankError, Ranks, connection, was_launched
from processes import by

pytestmark = pytest.mark.usefixtures("one_thread")

Report = dict[str, Any]


def srun(rank: int, world: int, port: int) -> dict[str, object]:
    """What Slurm tells a process; the port is made of the job's number."""
    step = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": world, "SLURM_STEP_NUM_TASKS": world}
    job = {"SLURM_JOB_ID": port - 15000, "SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_JOB_NUM_NODES": 1}
    return {**step, **job}


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


def test_tensors_are_summed_and_made_the_same() -> None:
    def work(ranks: Ranks) -> Report:
        weights = torch.full((2, 3, 2, 2, 2), float(ranks.rank)).to(memory_format=torch.channels_last_3d)
        counter = torch.tensor(7 + ranks.rank)
        ranks.same([weights, counter])
        return {
            "total": ranks.total(torch.tensor([1, 10 * ranks.rank])).tolist(),
            "same": (float(weights.max()), int(counter)),
            "random": ranks.generator(5).initial_seed(),
        }

    zero, one = by(2, work)
    assert zero["total"] == one["total"] == [2, 10]
    assert zero["same"] == one["same"] == (0.0, 7)
    assert zero["random"] == 5
    assert one["random"] % 2**32 != 5  # PyTorch takes no more of a seed


def test_gradients_are_the_mean_over_all_processes() -> None:
    def work(ranks: Ranks) -> Report:
        torch.manual_seed(ranks.rank)
        network = torch.nn.Linear(2, 1)
        shared = ranks.synchronised(network)
        begin = network.weight.detach().tolist()
        shared(torch.tensor([[1.0, 10.0 * ranks.rank]])).sum().backward()
        assert network.weight.grad is not None
        return {"begin": begin, "gradient": network.weight.grad.tolist()}

    zero, one = by(2, work)
    assert zero == one
    assert zero["gradient"] == [[1.0, 5.0]]


def test_started_by_slurm() -> None:
    found = by(2, lambda ranks: (ranks.gather(ranks.rank), ranks.local, ranks.world), srun)
    assert found == [([0, 1], 0, 2), ([0, 1], 1, 2)]
    assert not was_launched()


def test_a_launcher_of_one_process_is_as_none() -> None:
    assert by(1, lambda ranks: vars(ranks)) == [vars(Ranks())]


def test_processes_on_the_cpu_take_no_gpu() -> None:
    # There may be more of them than GPUs, and Ignite would give each the one of its number.
    # Told to each other, as one that ends at once takes the other's connection away while it still joins.
    assert by(2, lambda ranks: ranks.gather(os.environ.get("CUDA_VISIBLE_DEVICES"))) == [["", ""], ["", ""]]


def test_alone_by_itself() -> None:
    alone, network, values = Ranks(), torch.nn.Linear(1, 1), torch.ones(2)
    assert (alone.first, alone.gather(1), alone.once(lambda: 2)) == (True, [1], 2)
    assert alone.synchronised(network) is network
    assert alone.total(values) is values
    assert list(alone.share(["a", "b"])) == ["a", "b"]
    assert replace(alone, world=2, local=1).device("cuda:0") == "cuda:1"
    assert alone.device("cuda:3") == "cuda:3"


def test_only_a_lost_connection_is_told_as_one() -> None:
    with pytest.raises(LostRankError, match="start again"), connection():
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(RuntimeError, match="size mismatch") as found, connection():
        raise RuntimeError("size mismatch")
    assert not isinstance(found.value, UserError)
