"""nnU-Net's trainer says nothing after a step, and leaves its processes behind when it fails."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from lib.upstream.nnunet_training import run_watched


class Loader:
    def __init__(self) -> None:
        self.ended = 0

    def _finish(self) -> None:
        self.ended += 1


def trainer(losses: list[float]) -> Any:
    """What calls its step as nnU-Net's does."""
    found = SimpleNamespace(dataloader_train=Loader(), dataloader_val=None, train_step=lambda batch: {"loss": batch})

    def run_training() -> None:
        for loss in losses:
            assert found.train_step(loss) == {"loss": loss}

    found.run_training = run_training
    return found


def test_the_listener_hears_each_loss_and_can_end_it() -> None:
    heard: list[float] = []
    run_watched(trainer([3.0, 2.0]), heard.append)
    assert heard == [3.0, 2.0]
    broken = trainer([1.0])

    def refuse(loss: float) -> None:
        raise ValueError(f"{loss} is enough")

    with pytest.raises(ValueError, match="enough"):
        run_watched(broken, refuse)
    assert broken.dataloader_train.ended == 1


def test_the_trainer_still_works_as_it_is_watched() -> None:
    pytest.importorskip("nnunetv2", reason="pip install -r requirements-nnunet.txt")
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    run = inspect.getsource(nnUNetTrainer.run_training)
    assert "self.train_step(next(self.dataloader_train))" in run
    assert "finally" not in run  # else it would end its processes itself
    assert "step_end" not in run  # else there would be a call to be made after a step
    assert "._finish()" in inspect.getsource(nnUNetTrainer.on_train_end)
    assert "'loss'" in inspect.getsource(nnUNetTrainer.train_step)
