"""Let nnU-Net plan, preprocess and train."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lib.core.errors import UserError
from lib.upstream.nnunet_environment import nnunet_environment
from lib.upstream.nnunet_training import run_watched

from .dataset import DATASET, DATASET_ID
from .install import seeded
from .scheme import NnunetScheme

TRAINERS = {
    1: "nnUNetTrainer_1epoch",
    **{n: f"nnUNetTrainer_{n}epochs" for n in (5, 10, 20, 50, 100, 250, 500, 750)},
    1000: "nnUNetTrainer",
    **{n: f"nnUNetTrainer_{n}epochs" for n in (2000, 4000, 8000)},
}
"""nnU-Net's own trainers by their number of epochs."""

STEPS = 250
"""Optimiser steps of one of nnU-Net's epochs."""

_CPU_MEMORY = 2.0
"""GB that nnU-Net plans for on a CPU: it chooses window and batch by it, for a GPU of 8 GB otherwise."""

_MOST_WORKERS = 8


@dataclass(frozen=True)
class NnunetPlan:
    """How much nnU-Net trains.

    Args:
        trainer: name of its trainer class.
        epochs: epochs of that trainer.
        steps: optimiser steps of an epoch; another number than nnU-Net's own is for tests.
    """

    trainer: str
    epochs: int
    steps: int = STEPS


def stock_trainer(epochs: int) -> NnunetPlan:
    """nnU-Net's longest own trainer that has at most ``epochs`` epochs."""
    length = max(n for n in TRAINERS if n <= max(1, epochs))
    return NnunetPlan(TRAINERS[length], length)


def plan_dataset(folder: Path, device: str) -> str:
    """Fingerprint, experiment planning and preprocessing of the data set in ``folder``, by one process.

    Returns:
        The configuration to train: ``3d_fullres``, or ``2d`` where nnU-Net finds the scans too flat for it.

    Raises:
        UserError: when nnU-Net cannot work with the scans; the text has its reason.
    """
    done = folder / "preprocessed" / DATASET / "planned.json"
    if done.exists():
        return str(json.loads(done.read_text(encoding="utf-8"))["configuration"])
    with nnunet_environment(folder):
        from nnunetv2.experiment_planning import plan_and_preprocess_api as api

        try:
            api.extract_fingerprints([DATASET_ID], num_processes=1, verbose=False, show_progress_bar=False)
            plans = api.plan_experiments([DATASET_ID], gpu_memory_target_in_gb=_CPU_MEMORY if device == "cpu" else None)
            content = json.loads((done.parent / f"{plans}.json").read_text(encoding="utf-8"))
            chosen = "3d_fullres" if "3d_fullres" in content["configurations"] else "2d"
            api.preprocess([DATASET_ID], plans, [chosen], [1], show_progress_bar=False)
        except RuntimeError as error:
            raise UserError(
                "nnU-Net could not prepare the scans; its messages are in nnunet.log in the folder of the training. "
                "The network 'dynunet' takes any scan.",
                status=422,
            ) from error
    done.write_text(json.dumps({"configuration": chosen}), encoding="utf-8")
    return chosen


def train_fold(
    folder: Path,
    configuration: str,
    fold: int,
    plan: NnunetPlan,
    *,
    device: str,
    seed: int,
    listener: Callable[[float], None],
) -> tuple[NnunetScheme, nn.Module]:
    """Train one fold of ``splits_final.json`` with nnU-Net's own trainer, and take the last weights.

    On a CPU the same seed gives the same weights.

    Args:
        folder: as ``plan_dataset`` left it.
        configuration: from there.
        fold: number of the fold, from 0.
        plan: how much.
        device: ``cpu`` or ``cuda[:n]``; of several GPUs nnU-Net takes the first, whatever n is.
        seed: of all random numbers.
        listener: told the loss after each step.

    Raises:
        UserError: when the loss is no longer a number.
    """
    # Processes of their own keep a GPU busy. On a CPU they would take its time, and draw random numbers in any order.
    workers = 0 if device == "cpu" else max(0, min(_MOST_WORKERS, (os.cpu_count() or 1) - 1))
    with nnunet_environment(folder, workers), seeded(seed, "cpu" if device == "cpu" else "cuda:0"):
        from nnunetv2.run.run_training import get_trainer_from_args

        trainer = get_trainer_from_args(DATASET, configuration, fold, plan.trainer, device=torch.device(device))
        trainer.num_iterations_per_epoch = plan.steps
        trainer.num_val_iterations_per_epoch = max(1, plan.steps // 5)
        trainer.disable_checkpointing = True  # the fold's weights are kept by whoever asked for them

        def checked(loss: float) -> None:
            if not math.isfinite(loss):
                raise UserError(
                    f"nnU-Net stopped in fold {fold}: the loss is no longer a number. Look for scans with extreme "
                    "intensities among the study, or try another seed; rounds that were finished are kept.",
                    status=500,
                )
            listener(loss)

        run_watched(trainer, checked)
        trainer.set_deep_supervision_enabled(False)
        scheme = NnunetScheme(
            plans=trainer.plans_manager.plans,
            dataset=trainer.dataset_json,
            configuration=configuration,
            mirror_axes=tuple(trainer.inference_allowed_mirroring_axes or ()),
        )
        return scheme, trainer.network.to(device).eval()
