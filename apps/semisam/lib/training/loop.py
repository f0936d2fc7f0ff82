"""Train one specialist from scratch on human labels and pseudo-labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from lib.core.devices import torch_seeded
from lib.core.errors import UserError
from lib.parallel.ranks import Ranks
from lib.specialists.augment import Augmentation
from lib.specialists.networks import SpecialistNetwork, build_network
from lib.specialists.precision import MixedPrecision, repeatable_convolutions
from lib.specialists.predict import predict_prepared
from lib.specialists.ramps import linear_ramp, poly_decay
from lib.specialists.regularisers import Observation, Regulariser
from lib.specialists.spec import SpecialistSpec

from .assistance import Assistant, AssistedSource, Predict
from .metrics_queue import Metrics, Readings
from .objectives import LabelObjective, Objective
from .sampling import SampleSource, TwoStreams
from .shared_step import Pieces


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
        clip: largest norm of the gradient.
        augmentation: random changes of the windows.
        objective: what is learned from the labels.
    """

    epochs: int
    iterations: int
    batch: int = 2
    human_share: float = 0.5
    rate: float = 4e-3
    decay: float = 1e-4
    warm_up: float = 0.05
    clip: float = 5.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    objective: Objective = field(default_factory=LabelObjective)

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
        missed: structures, from 1, that those labels held and of which the network found no voxel in the last epoch.
    """

    members: Sequence[SpecialistNetwork]
    agreement: float
    missed: Sequence[int] = ()


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
    assistant: Assistant | None = None,
    ranks: Ranks | None = None,
) -> Trained:
    """Train a fresh network; no label of any other scan is looked at, and the last weights are taken.

    Args:
        spec: the network and its grid.
        source: the scans.
        regulariser: what else the student is asked for; may keep a teacher.
        plan: how to train.
        device: ``cpu`` or ``cuda[:n]``.
        seed: of all random numbers.
        listener: told about each step.
        assistant: generalists that help, None without any.
        ranks: who shares the work of each step, None for this process alone. All draw the same windows and work out
            the same loss; what they share is the student's pass there and back, see ``pieces``.

    Raises:
        UserError: when the loss is no longer a number.
    """
    generator = torch.Generator().manual_seed(seed)
    precision = MixedPrecision(device)
    with torch_seeded(seed, device), repeatable_convolutions():
        student = build_network(spec).to(device).train()
        regulariser.start(student, spec.channels, plan.steps, generator)
        done = 0
        if assistant is not None:
            assistant.start(_predictor(spec, regulariser, student), plan.steps, generator)
            source = AssistedSource(source, assistant, lambda: done)
        streams = TwoStreams(source, spec.roi_size, plan.batch, plan.human_share, plan.augmentation, generator, device)
        heads = list(regulariser.parameters())
        trained = [*student.parameters(), *heads]
        optimiser = torch.optim.AdamW(trained, lr=plan.rate, weight_decay=plan.decay, fused=device != "cpu" or None)
        pieces = None
        if ranks is not None and ranks.launched:
            pieces = Pieces(ranks, seed, precision, student, heads)
        there_and_back = _Pass(student, precision, pieces, bool(heads))

        def step(engine: Engine, _: object) -> Metrics:
            nonlocal done
            done = engine.state.iteration - 1
            for group in optimiser.param_groups:
                rise = linear_ramp(done + 1, plan.warm_up * plan.steps)
                group["lr"] = plan.rate * rise * poly_decay(done, plan.steps)
            batch = streams.draw()
            optimiser.zero_grad(set_to_none=True)
            features, logits = there_and_back.forward(batch.images, spec.channels, done)
            seen = Observation(**vars(batch), features=features, logits=logits, step=done, steps=plan.steps)
            with precision():
                extra = regulariser.loss(seen)
            loss, learned = plan.objective(seen)
            # For the log only: every second voxel of each axis tells as much.
            few = [t.detach()[..., ::2, ::2, ::2] for t in (logits, batch.targets, batch.weights)]
            counts = overlap_counts(*few)
            seen_of_labels.add_(counts)
            metrics: dict[str, Tensor | float] = {**learned, "agreement": _of_held(counts), "regulariser": extra}
            total = loss + extra
            if assistant is not None:
                help_, facts = assistant.loss(seen)
                total = total + help_
                metrics |= facts
            metrics["loss"] = total
            there_and_back.descend(total, optimiser, plan.clip)
            return {name: value.detach() if isinstance(value, Tensor) else value for name, value in metrics.items()}

        def tell(number: int, metrics: dict[str, float]) -> None:
            check_finite(metrics["loss"], number - 1, plan.steps)
            if math.isnan(metrics["agreement"]):
                del metrics["agreement"]
            else:
                agreements.append(metrics["agreement"])
            listener(number, metrics)

        engine = Engine(step)
        agreements: list[float] = []
        seen_of_labels = torch.zeros(spec.channels - 1, 3, dtype=torch.long, device=device)
        readings = Readings(device, tell)

        @engine.on(Events.EPOCH_STARTED)
        def forget() -> None:
            agreements.clear()
            seen_of_labels.zero_()

        @engine.on(Events.ITERATION_COMPLETED)
        def follow(engine: Engine) -> None:  # not the one around it: a circle would keep all in memory for a while
            regulariser.after_step(student, engine.state.iteration - 1)
            readings.add(engine.state.iteration, cast("Metrics", engine.state.output))

        engine.on(Events.EPOCH_COMPLETED)(readings.flush)
        engine.run(max_epochs=plan.epochs, epoch_length=plan.iterations)
        members = tuple(m.eval() for m in regulariser.members(student))
        if ranks is not None:
            ranks.agree([value for member in members for value in member.state_dict().values()])
        missed = [n for n, (_, held, found) in enumerate(seen_of_labels.tolist(), start=1) if held and not found]
        return Trained(members, _mean(agreements), missed)


class _Pass:
    """The student's way from images to logits, and the step down the gradient.

    Args:
        student: the network in training.
        precision: in which it passes.
        pieces: to share the work; None for the whole batch at once.
        heads: whether anybody has a head on the student's features.
    """

    def __init__(
        self, student: SpecialistNetwork, precision: MixedPrecision, pieces: Pieces | None, heads: bool
    ) -> None:
        self._student = student
        self._heads = heads
        self._precision = precision
        self._pieces = pieces

    def forward(self, images: Tensor, classes: int, step: int) -> tuple[Tensor, Tensor]:
        """Features and logits; no features where nobody has a head on them."""
        if self._pieces is None:
            return self._compute(images)

        def compute(part: slice) -> Tensor:
            features, logits = self._compute(images[part])
            return torch.cat([logits, features.float()], dim=1)

        whole = self._pieces.forward(len(images), step, compute)
        return whole[:, classes:], whole[:, :classes]

    def _compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with self._precision():
            features = self._student.features(images)
            logits = self._student.classify(features).float()
        return features if self._heads else logits[:, :0], logits

    def descend(self, loss: Tensor, optimiser: torch.optim.Optimizer, clip: float) -> None:
        """Go down the gradient of the loss once."""
        (self._precision.step if self._pieces is None else self._pieces.descend)(loss, optimiser, clip)


def _predictor(spec: SpecialistSpec, regulariser: Regulariser, student: SpecialistNetwork) -> Predict:
    """Predicts with the first of the regulariser's members, which goes on training afterwards."""

    def predict(image: Tensor) -> Tensor:
        network = regulariser.members(student)[0]
        training = network.training
        answer = predict_prepared([network], spec, image.float())
        network.train(training)
        return answer

    return predict


def check_finite(loss: float, done: int, steps: int) -> None:
    """Raise UserError when the loss of the step after ``done`` of ``steps`` steps is no longer a number."""
    if not math.isfinite(loss):
        raise UserError(
            f"Training stopped at step {done + 1} of {steps}: the loss is no longer a number. "
            "Look for scans with extreme intensities among the study, or try another seed; rounds that were "
            "finished are kept.",
            status=500,
        )


def agreement(probabilities: Tensor, target: Tensor, weights: Tensor | None = None) -> float:
    """Mean hard Dice of the structures between two soft labels ``[B, C, D, H, W]``; 1 when both have none.

    The first may be logits as well: only the largest class counts. Voxels whose weight ``[B, 1, D, H, W]`` is 0 are
    left out.
    """
    own, held, both = overlap_counts(probabilities, target, weights).double().T
    there = own + held > 0
    return float((2.0 * both / (own + held))[there].mean()) if bool(there.any()) else 1.0


def overlap_counts(probabilities: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Voxels of each structure in one soft label, in another, and in both; arguments as for ``agreement``.

    Returns:
        ``[N, 3]`` integers, on the device of the labels.
    """
    own, other = probabilities.argmax(dim=1), target.argmax(dim=1)
    if weights is not None:
        known = weights[:, 0] > 0
        own, other = own * known, other * known
    rows = []
    for value in range(1, target.shape[1]):  # one at a time: a study may have a hundred structures
        mine, theirs = own == value, other == value
        rows.append(torch.stack([mine.sum(), theirs.sum(), (mine & theirs).sum()]))
    return torch.stack(rows)


def _of_held(counts: Tensor) -> Tensor:
    """Mean Dice of the structures, by ``overlap_counts``; not a number where the second label holds none."""
    own, held, both = counts.float().T
    total = own + held
    dice = torch.where(total > 0, 2.0 * both / total, torch.nan).nanmean()
    return torch.where(held.sum() > 0, dice, torch.nan)


def holds_structure(target: Tensor, weights: Tensor) -> bool:
    """Whether a soft label ``[B, C, D, H, W]`` holds a structure where its weight ``[B, 1, D, H, W]`` is not 0."""
    return bool(((target.argmax(dim=1, keepdim=True) > 0) & (weights > 0)).any())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
