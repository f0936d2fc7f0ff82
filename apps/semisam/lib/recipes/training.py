"""Train one specialist from scratch on human labels and pseudo-labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..errors import UserError
from ..specialists.augment import Augmentation
from ..specialists.losses import noise_tolerant_dice, soft_cross_entropy, soft_dice
from ..specialists.ramps import linear_ramp, poly_decay
from ..specialists.regularisers import Regulariser
from ..specialists.spec import SpecialistSpec
from ..specialists.unet import build_network
from .sampling import Batch, SampleSource, TwoStreams


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Args:
        epochs: epochs, each ``iterations`` steps long.
        iterations: steps of an epoch.
        batch: windows in a step.
        human_share: share of the windows with a human label where both kinds are there. Half, as in the paper: in
            short trainings a tenth was worse (hippocampus, 300 steps: 0.816 against 0.839 Dice on six scans).
        rate: learning rate of AdamW at the start; it falls to 0 polynomially.
        decay: weight decay.
        warm_up: share of the steps in which the learning rate rises.
        pseudo_ramp: share of the steps in which the weight of the pseudo-labels rises to 1.
        clip: largest norm of the gradient.
        augmentation: random changes of the windows.
    """

    epochs: int
    iterations: int
    batch: int = 2
    human_share: float = 0.5
    rate: float = 4e-3
    decay: float = 1e-4
    warm_up: float = 0.05
    pseudo_ramp: float = 0.1
    clip: float = 5.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.iterations


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training leaves.

    Args:
        members: networks to predict with, the best one first.
        agreement: mean Dice between the network and the labels it learned from, over the last epoch, 0..1.
    """

    members: Sequence[nn.Module]
    agreement: float


StepListener = Callable[[int, "dict[str, float]"], None]
"""Called after each step with the number of steps done and the step's metrics."""


def train(
    spec: SpecialistSpec,
    source: SampleSource,
    regulariser: Regulariser,
    plan: TrainingPlan,
    *,
    device: str,
    seed: int,
    listener: StepListener,
) -> Trained:
    """Train a fresh network; no label of any other scan is looked at, and the last weights are taken.

    Raises:
        UserError: when the loss is no longer a number.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        student = build_network(spec).to(device).train()
        regulariser.start(student, plan.steps, generator)
        streams = TwoStreams(source, spec.roi_size, plan.batch, plan.human_share, plan.augmentation, generator)
        optimiser = torch.optim.AdamW(student.parameters(), lr=plan.rate, weight_decay=plan.decay)

        def step(engine: Engine, _: object) -> dict[str, float]:
            done = engine.state.iteration - 1
            for group in optimiser.param_groups:
                rise = linear_ramp(done + 1, plan.warm_up * plan.steps)
                group["lr"] = plan.rate * rise * poly_decay(done, plan.steps)
            batch = _to(streams.draw(), device)
            optimiser.zero_grad(set_to_none=True)
            logits = student(batch.images).float()
            loss, metrics = supervised(logits, batch, linear_ramp(done + 1, plan.pseudo_ramp * plan.steps))
            extra = regulariser.loss(batch.images, logits, batch.human, done)
            total = loss + extra
            metrics |= {"regulariser": float(extra.detach()), "loss": float(total.detach())}
            if not math.isfinite(metrics["loss"]):
                raise UserError(
                    f"Training stopped at step {done + 1} of {plan.steps}: the loss is no longer a number. "
                    "Look for scans with extreme intensities among the study, or try another seed; rounds that were "
                    "finished are kept.",
                    status=500,
                )
            total.backward()
            nn.utils.clip_grad_norm_(student.parameters(), plan.clip)
            optimiser.step()
            return metrics

        engine = Engine(step)
        agreements: list[float] = []

        @engine.on(Events.EPOCH_STARTED)
        def forget() -> None:
            agreements.clear()

        @engine.on(Events.ITERATION_COMPLETED)
        def follow() -> None:
            regulariser.after_step(student, engine.state.iteration - 1)
            metrics = cast("dict[str, float]", engine.state.output)
            agreements.append(metrics["agreement"])
            listener(engine.state.iteration, metrics)

        engine.run(max_epochs=plan.epochs, epoch_length=plan.iterations)
        return Trained(tuple(m.eval() for m in regulariser.members(student)), _mean(agreements))


def supervised(logits: Tensor, batch: Batch, pseudo_weight: float) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy and Dice on human labels, cross-entropy and noise-tolerant Dice on pseudo-labels.

    SemiSAM-O1 (https://arxiv.org/abs/2604.24109): ``0.5 (CE + Dice) + w 0.5 (CE + Dice)``; the second Dice is FM-ABS's,
    which wrong labels pull at less.

    Args:
        logits: ``[B, C, D, H, W]``.
        batch: what they belong to.
        pseudo_weight: weight w of the pseudo-labelled part.

    Returns:
        The loss, and its parts and the agreement (hard Dice of the structures, 0..1) for the log.
    """
    probabilities = logits.softmax(dim=1)
    total = logits.new_zeros(())
    metrics: dict[str, float] = {}
    for name, chosen, weight in (("human", batch.human, 1.0), ("pseudo", ~batch.human, pseudo_weight)):
        if not bool(chosen.any()):
            continue
        overlap = soft_dice if name == "human" else noise_tolerant_dice
        voxel = batch.weights[chosen]
        entropy = soft_cross_entropy(logits[chosen], batch.targets[chosen], voxel)
        part = 0.5 * (entropy + overlap(probabilities[chosen], batch.targets[chosen], voxel))
        metrics[f"{name}_loss"] = float(part.detach())
        total = total + weight * part
    metrics["agreement"] = agreement(probabilities.detach(), batch.targets)
    return total, metrics


def agreement(probabilities: Tensor, target: Tensor) -> float:
    """Mean hard Dice of the structures between two soft labels ``[B, C, D, H, W]``; 1 when both have none."""
    own, other = probabilities.argmax(dim=1), target.argmax(dim=1)
    scores = []
    for value in range(1, target.shape[1]):
        a, b = own == value, other == value
        total = int(a.sum()) + int(b.sum())
        if total:
            scores.append(2.0 * int((a & b).sum()) / total)
    return _mean(scores) if scores else 1.0


def _to(batch: Batch, device: str) -> Batch:
    if device == "cpu":
        return Batch(
            batch.images.contiguous(memory_format=torch.channels_last_3d), batch.targets, batch.weights, batch.human
        )
    return Batch(*(t.to(device) for t in (batch.images, batch.targets, batch.weights, batch.human)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
