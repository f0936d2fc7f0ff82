"""Which networks of a run become the specialist."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from lib.recipes import PRESETS
from lib.recipes.engine import stages as stages_module
from lib.recipes.engine.context import Context
from lib.recipes.engine.kept_training import TrainingNumber
from lib.specialists import SpecialistSpec, load_specialist
from lib.specialists.networks.base import SpecialistNetwork
from lib.training import loop as training_module
from lib.training.loop import TrainingPlan
from recipe_runs import OPTIONS, Listener, cases_of, run

pytestmark = pytest.mark.usefixtures("one_thread", "small_presets")


@pytest.mark.slow
def test_the_specialist_is_the_best_network_of_each_round(study: Path, tmp_path: Path) -> None:
    listener = Listener()
    run(cases_of(study), tmp_path / "runs", listener, replace(OPTIONS, rounds=3))
    members = [
        [parameters_of(member) for member in load_specialist(finished.checkpoint, "cpu").members]
        for finished in listener.rounds
        if finished.checkpoint is not None
    ]
    assert [len(each) for each in members] == [2, 2, 3]  # a teacher and its student; then the teachers
    assert torch.equal(members[1][1], members[0][0])
    assert torch.equal(members[2][1], members[1][0])
    assert torch.equal(members[2][2], members[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["semisam_o1", "semisam_plus"])
def test_a_preset_may_have_several_networks_a_round(
    recipe: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], networks=3))
    listener = Listener()
    result = run(cases_of(study), tmp_path / "runs", listener, replace(OPTIONS, recipe=recipe))
    assert (listener.steps[-1].epoch, listener.steps[-1].total_epochs) == (12, 12)
    first, second = (
        [parameters_of(member) for member in load_specialist(finished.checkpoint, "cpu").members]
        for finished in listener.rounds
        if finished.checkpoint is not None
    )
    assert len(first) == len(second) == 6
    assert not any(torch.equal(a, b) for a, b in combinations(first, 2))
    if recipe == "semisam_o1":  # the teachers of both rounds
        assert all(torch.equal(a, b) for a, b in zip(second[3:], first[:3], strict=True))
    assert result.report is not None
    assert "3 of them in a round" in result.report.read_text(encoding="utf-8")


def test_of_several_networks_the_best_of_each_training_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_round(run: object, number: TrainingNumber, *_: object) -> SimpleNamespace:
        return SimpleNamespace(members=(f"teacher {number.number} of {number.count}", f"student {number.number}"))

    monkeypatch.setattr(stages_module, "train_round", train_round)
    run = cast("Context", SimpleNamespace(budget=SimpleNamespace(networks=2)))
    found = stages_module.train_networks(run, 1, TrainingPlan(1, 1))
    assert list(found) == ["teacher 0 of 2", "teacher 1 of 2", "student 0", "student 1"]


@pytest.mark.slow
def test_a_specialist_that_misses_a_structure_is_trained_again(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built: list[Tensor] = []
    build = training_module.build_network

    def first_one_is_blind(spec: SpecialistSpec) -> SpecialistNetwork:
        network = build(spec)
        head = cast(nn.Conv3d, network.head)
        built.append(head.weight.detach().clone())
        if len(built) == 1 and head.bias is not None:
            with torch.no_grad():
                head.bias[2] = -1e4
        return network

    monkeypatch.setattr(training_module, "build_network", first_one_is_blind)
    monkeypatch.setattr(stages_module, "ENOUGH_STEPS", 8)
    monkeypatch.setattr(stages_module, "MOST_TRAININGS", 2)
    listener = Listener()
    with caplog.at_level(logging.INFO, logger="semisam.train"):
        options = replace(OPTIONS, rounds=1, regulariser="supervised")
        run(cases_of(study), tmp_path / "runs", listener, options=options)
    assert "training 8/8" in caplog.text  # the second training counts in place of the first one
    assert "training 9/8" not in caplog.text
    caplog.records[:] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "the specialist of round 1 finds nothing of" in caplog.records[0].getMessage()
    assert "rod" in caplog.records[0].getMessage()
    assert "it is trained again" in caplog.records[0].getMessage()
    assert len(built) == 2
    assert not torch.equal(*built)


def parameters_of(network: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten() for each in network.parameters()])
