"""A training of nnU-Net that tells its loss after each step, and ends its processes also when it fails.

- Package: nnU-Net 2.8.1 (``nnunetv2``), ``nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py``, ``nnUNetTrainer``.
- Lacks: a call after each step. And only a training that ends well ends the processes that feed it.
- Done: the trainer's ``train_step`` is wrapped, and its loaders' private ``_finish`` is called whatever happens.
- Source: https://github.com/MIC-DKFZ/nnUNet/blob/master/nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def run_watched(trainer: Any, listener: Callable[[float], None]) -> None:
    """Let a trainer of nnU-Net train.

    Args:
        trainer: an ``nnUNetTrainer``.
        listener: told the loss after each step; an error that it raises ends the training.
    """
    step = trainer.train_step

    def watched(batch: dict[str, object]) -> dict[str, object]:
        result: dict[str, object] = step(batch)
        listener(float(str(result["loss"])))
        return result

    trainer.train_step = watched
    try:
        trainer.run_training()
    finally:
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            if hasattr(loader, "_finish"):  # processes that feed a GPU
                loader._finish()
