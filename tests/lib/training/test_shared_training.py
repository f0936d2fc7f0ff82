"""A training that several processes share."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from lib.core.errors import UserError
from lib.parallel.ranks import LostRankError, Ranks
from lib.recipes.sc_sam.cotraining import CoTraining, CoTrainingPlan
from lib.specialists.networks import NETWORKS
from lib.specialists.networks.sam.build import SAM_KINDS, build_sam
from lib.specialists.regularisers import REGULARISERS, MeanTeacher, Observation, build_regulariser
from lib.specialists.spec import SpecialistSpec
from lib.training.loop import Trainer, TrainingPlan, shared_iterations, shared_rate
from lib.training.sample import Sample
from lib.training.sampling import Batch
from lib.training.shared_scans import SharedScans
from processes import by
from training_parts import Shapes

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = SpecialistSpec(("a", "b"), (4, 4, 4), (1.0, 1.0, 1.0), (16, 16, 16))
PLAN = TrainingPlan(epochs=2, iterations=2)
VOLUME_NETWORKS = [name for name in NETWORKS if name not in SAM_KINDS]


def values_of(networks: Sequence[torch.nn.Module]) -> list[bytes]:
    return [value.numpy().tobytes() for network in networks for value in network.state_dict().values()]


def trained(ranks: Ranks, network: str = "unet3d", regulariser: str = "mean_teacher") -> dict[str, Any]:
    spec = replace(SPEC, network=network)
    told: list[tuple[int, dict[str, float]]] = []
    trainer = Trainer(spec, Shapes(), build_regulariser(regulariser, PLAN.steps), PLAN, ranks=ranks)
    found = trainer.train(3, lambda *step: told.append(step))
    return {"weights": values_of(found.members), "told": told, "rest": (found.agreement, found.missed)}


def test_the_steps_go_down_and_the_rate_goes_up() -> None:
    assert [shared_iterations(50, 20, world) for world in (1, 2, 3, 4)] == [20, 10, 7, 5]
    assert [shared_iterations(20, 20, world) for world in (1, 2, 4, 8)] == [20, 10, 10, 10]  # 200 steps at least
    assert shared_iterations(5, 20, 2) == 20  # a training that is shorter still stays as it is
    assert [shared_rate(0.004, world) for world in (1, 4)] == [0.004, 0.008]


@pytest.mark.parametrize("network", VOLUME_NETWORKS)
@pytest.mark.slow
def test_all_processes_end_with_one_network_and_repeat_it(network: str) -> None:
    first, second = by(2, lambda ranks: trained(ranks, network))
    assert isinstance(first, dict), repr(first)
    assert first == second  # weights, what was told of each step, and what the labels missed
    assert [step for step, _ in first["told"]] == [1, 2, 3, 4]
    assert by(2, lambda ranks: trained(ranks, network)) == [first, second]
    assert first["weights"] != trained(Ranks(), network)["weights"]


@pytest.mark.parametrize("regulariser", [name for name in REGULARISERS if name != "mean_teacher"])
@pytest.mark.slow
def test_any_regulariser_is_shared(regulariser: str) -> None:
    first, second = by(2, lambda ranks: trained(ranks, regulariser=regulariser))
    assert isinstance(first, dict), repr(first)
    assert first == second


@pytest.mark.slow
def test_each_process_sees_windows_of_its_own() -> None:
    def first_window(ranks: Ranks) -> float:
        seen: list[float] = []

        class Watch(MeanTeacher):
            def loss(self, observation: Observation) -> torch.Tensor:
                seen.append(float(observation.images.sum()))
                return super().loss(observation)

        Trainer(SPEC, Shapes(), Watch(), PLAN, ranks=ranks).train(3, lambda *_: None)
        return seen[0]

    first, second = by(2, first_window)
    assert first == first_window(Ranks())
    assert second != first


class Names:
    """Scans by name alone."""

    def __init__(self, human: int, pseudo: int) -> None:
        self._human, self._pseudo = [f"h{n}" for n in range(human)], [f"p{n}" for n in range(pseudo)]

    def human(self) -> Sequence[str]:
        return self._human

    def pseudo(self) -> Sequence[str]:
        return self._pseudo

    def sample(self, name: str) -> Sample:
        raise NotImplementedError


def test_scans_are_shared_out_where_there_are_enough() -> None:
    shares = [SharedScans(Names(1, 9), Ranks(rank, 2)) for rank in (0, 1)]
    assert [list(share.human()) for share in shares] == [["h0"], ["h0"]]
    assert [list(share.pseudo()) for share in shares] == [["p0", "p2", "p4", "p6", "p8"], ["p1", "p3", "p5", "p7"]]
    few = SharedScans(Names(1, 7), Ranks(1, 2))
    assert len(few.pseudo()) == 7


def test_a_loss_that_is_no_number_in_one_process_stops_all() -> None:
    class Breaks(MeanTeacher):
        def __init__(self, ranks: Ranks) -> None:
            super().__init__()
            self.ranks = ranks

        def loss(self, seen: Observation) -> torch.Tensor:
            return super().loss(seen) + (math.nan if seen.step == 2 and self.ranks.rank == 1 else 0.0)

    for error in by(2, lambda ranks: Trainer(SPEC, Shapes(), Breaks(ranks), PLAN, ranks=ranks).train(0, print)):
        assert isinstance(error, UserError)
        assert "step 3 of 4" in str(error)


def test_a_process_that_is_killed_in_a_step_ends_the_others() -> None:
    class Dies(MeanTeacher):
        def __init__(self, ranks: Ranks) -> None:
            super().__init__()
            self.ranks = ranks

        def loss(self, seen: Observation) -> torch.Tensor:
            if seen.step == 1 and self.ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().loss(seen)

    first, second = by(2, lambda ranks: Trainer(SPEC, Shapes(), Dies(ranks), PLAN, ranks=ranks).train(0, print))
    assert second == -signal.SIGKILL
    assert isinstance(first, LostRankError)
    assert "start again" in str(first)


def cotrained(ranks: Ranks) -> dict[str, Any]:
    spec = SpecialistSpec(("a", "b"), (4, 8), (1.0, 1.0, 1.0), (32, 32, 1), network="sam", slice_axis=2)
    torch.manual_seed(0)
    pair = build_sam(spec)
    training = CoTraining(pair, CoTrainingPlan(steps=3, batch=2), ranks=ranks)
    targets = torch.zeros(4, 3, 32, 32, 1)
    targets[:, 0] = 1.0
    labelled = torch.tensor([True, True, False, False])
    generator = ranks.generator(1)
    told = []
    for _ in range(3):
        images = torch.rand(4, 1, 32, 32, 1, generator=generator)
        batch = Batch(images, targets, torch.ones(4, 1, 32, 32, 1), labelled, targets[:, :0])
        told.append(training.step(batch, generator))
    parameters = [p.detach().numpy().tobytes() for p in pair.parameters()]
    return {"parameters": parameters, "told": told}


@pytest.mark.slow
def test_both_networks_of_a_co_training_stay_the_same_in_all_processes() -> None:
    first, second = by(2, cotrained)
    assert isinstance(first, dict), repr(first)
    assert (first["parameters"], first["told"]) == (second["parameters"], second["told"])
    assert first["parameters"] != cotrained(Ranks())["parameters"]


def test_a_co_training_goes_on_at_the_same_part_by_another_number_of_processes() -> None:
    pair = build_sam(SpecialistSpec(("a",), (4, 8), (1.0, 1.0, 1.0), (32, 32, 1), network="sam", slice_axis=2))
    half = CoTraining(pair, CoTrainingPlan(steps=200))
    half.done = 100
    state = half.state()
    shorter = CoTraining(pair, CoTrainingPlan(steps=50))
    shorter.restore(state)
    assert shorter.done == 25
    del state["steps"]  # the version before did not write it
    again = CoTraining(pair, CoTrainingPlan(steps=200))
    again.restore(state)
    assert again.done == 100
