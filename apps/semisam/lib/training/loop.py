"""Train one specialist from scratch on human labels and pseudo-labels.

Several processes share a training by PyTorch's DistributedDataParallel: each draws windows of its own, from its share
of the scans, and all follow the mean of their gradients. A step of N processes sees N times more windows, so a training
takes N times fewer steps (``shared_iterations``) at a higher learning rate (``shared_rate``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib.core.devices import torch_seeded
from lib.core.errors import UserError
from lib.parallel.ranks import Ranks, connection
from lib.specialists.augment import Augmentation
from lib.specialists.networks import SpecialistNetwork, build_network
from lib.specialists.precision import MixedPrecision, repeatable_convolutions
from lib.specialists.predict import predict_prepared
from lib.specialists.ramps import linear_ramp, poly_decay
from lib.specialists.regularisers import Observation, Regulariser
from lib.specialists.spec import SpecialistSpec

from .agreement import mean_dice, overlap_counts
from .assistance import Assistant, AssistedSource, Predict
from .metrics_queue import Metrics, MetricsQueue, Step, mean_metrics
from .objectives import LabelObjective, Objective
from .sampling import Batch, SampleSource, TwoStreams, WindowOptions
from .shared_scans import SharedScans
from .student_pass import StudentPass


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Args:
        epochs: epochs, each ``iterations`` steps long.
        iterations: steps of an epoch.
        batch: windows in a step, in each of the processes that share a training.
        at_once: windows of a step that the optimiser sees together on a CPU, which needs as long for two windows one
            after the other as for both. A GPU does not, and sees all together.
        human_share: share of the windows with a human label where both kinds are there. Half, as in the paper.
        rate: learning rate of AdamW at the start; it falls to 0 polynomially. For one process, see ``shared_rate``.
        decay: weight decay.
        warm_up: share of the steps in which the learning rate rises.
        clip: largest norm of the gradient.
        augmentation: random changes of the windows.
        objective: what is learned from the labels.
    """

    epochs: int
    iterations: int
    batch: int = 2
    at_once: int = 1
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

    @property
    def windows(self) -> WindowOptions:
        """How a step's windows are drawn."""
        return WindowOptions(self.batch, self.human_share, self.augmentation)


LEAST_STEPS = 200
"""Steps of a training that several processes share, unless one process would take fewer. Too few steps make a worse
network however many windows each sees."""


def shared_iterations(epochs: int, iterations: int, world: int) -> int:
    """Steps of an epoch by ``world`` processes: at least the windows that one process sees, and ``LEAST_STEPS`` in all.

    Args:
        epochs: of the training.
        iterations: steps of an epoch by one process.
        world: how many processes share each step.
    """
    least = -(-LEAST_STEPS // epochs)
    return min(iterations, max(-(-iterations // world), least))


def shared_rate(rate: float, world: int) -> float:
    """The learning rate of ``world`` processes, whose gradients are means over ``world`` times more windows.

    It grows with the root of the batch, as it should for optimisers that divide by the gradient's deviation: Malladi
    et al., "On the SDEs and scaling rules for adaptive gradient algorithms", https://arxiv.org/abs/2205.10287.
    """
    return rate * math.sqrt(world)


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


@dataclass(eq=False)
class Trainer:
    """Trains a fresh network; no label of any other scan is looked at, and the last weights are taken.

    Args:
        spec: the network and its grid.
        source: the scans, the same in all processes.
        regulariser: a further loss, which may keep a teacher. One object serves one training.
        plan: how to train.
        device: ``cpu`` or ``cuda[:n]``.
        assistant: asks generalists meanwhile, None without any.
        ranks: the processes that share this training.
    """

    spec: SpecialistSpec
    source: SampleSource
    regulariser: Regulariser
    plan: TrainingPlan
    device: str = "cpu"
    assistant: Assistant | None = None
    ranks: Ranks = field(default_factory=Ranks)

    def train(self, seed: int, listener: StepListener) -> Trained:
        """Train.

        Args:
            seed: of all random numbers.
            listener: told about each step.

        Raises:
            UserError: when the loss is no longer a number, or another process has ended.
        """
        queue = MetricsQueue(self.device, self.ranks)
        with torch_seeded(seed, self.device), repeatable_convolutions():
            self._begin(seed)
            for epoch in range(self.plan.epochs):
                self._agreements: list[float] = []
                self._seen.zero_()
                for number in range(1, self.plan.iterations + 1):
                    done = epoch * self.plan.iterations + number
                    with connection():
                        metrics = self._step(done - 1)
                    self._log(queue.add(done, metrics), listener)
                self._log(queue.flush(), listener)
            return self._finish()

    def _begin(self, seed: int) -> None:
        """The network with all that follows it, and where its windows come from."""
        spec, plan = self.spec, self.plan
        self._precision = MixedPrecision(self.device)
        self._student = build_network(spec).to(self.device).train()
        generator = self.ranks.generator(seed)
        self.regulariser.start(self._student, spec.channels, plan.steps, generator)
        self._assisted: AssistedSource | None = None
        source = self.source if self.ranks.world == 1 else SharedScans(self.source, self.ranks)
        if self.assistant is not None:
            self.assistant.start(predictor(spec, self.regulariser, self._student), plan.steps, generator)
            source = self._assisted = AssistedSource(source, self.assistant)
        self._streams = TwoStreams(source, spec.roi_size, plan.windows, generator, self.device)
        heads = list(self.regulariser.parameters())
        self._pass = self.ranks.synchronised(StudentPass(self._student, self._precision, heads))
        trained = [*self._student.parameters(), *heads]
        fused = self.device != "cpu" or None
        self._optimiser = torch.optim.AdamW(trained, lr=plan.rate, weight_decay=plan.decay, fused=fused)
        self._seen = torch.zeros(spec.channels - 1, 3, dtype=torch.long, device=self.device)
        if self.ranks.world > 1:  # the weights are the same, dropout is not
            torch.manual_seed(self.ranks.own_seed(seed))

    def _step(self, done: int) -> Metrics:
        """Learn from the windows of one step, after ``done`` steps."""
        plan = self.plan
        rise = linear_ramp(done + 1, plan.warm_up * plan.steps)
        for group in self._optimiser.param_groups:
            group["lr"] = shared_rate(plan.rate, self.ranks.world) * rise * poly_decay(done, plan.steps)
        if self._assisted is not None:
            self._assisted.step = done
        windows = self._streams.draw()
        pieces = windows.split(plan.at_once if self.device == "cpu" else plan.batch)
        mixed = bool(windows.labelled.any()) and not bool(windows.labelled.all())
        found = [self._learn(each, done, len(each.images) / len(windows.images) if mixed else 1.0) for each in pieces]
        self.regulariser.after_step(self._student, done)
        if len(found) == 1:
            return found[0]
        return mean_metrics([{name: float(value) for name, value in metrics.items()} for metrics in found])

    def _learn(self, batch: Batch, done: int, share: float) -> Metrics:
        """Change the weights once; ``share`` is that of ``Observation``."""
        self._optimiser.zero_grad(set_to_none=True)
        features, logits = self._pass(batch.images)
        seen = Observation(
            **vars(batch), features=features, logits=logits, step=done, steps=self.plan.steps, share=share
        )
        loss, metrics = self._loss(seen)
        self._precision.step(loss, self._optimiser, self.plan.clip)
        return metrics

    def _loss(self, seen: Observation) -> tuple[Tensor, Metrics]:
        """All terms together, and what to log."""
        with self._precision():
            regularised = self.regulariser.loss(seen)
        loss, metrics = self.plan.objective(seen)
        # For the log only: every second voxel of each axis tells as much.
        thinned = [t.detach()[..., ::2, ::2, ::2] for t in (seen.logits, seen.targets, seen.weights)]
        counts = overlap_counts(*thinned)
        self._seen.add_(counts)
        found: dict[str, Tensor | float] = {**metrics, "agreement": mean_dice(counts), "regulariser": regularised}
        loss = loss + regularised
        if self.assistant is not None:
            term, facts = self.assistant.loss(seen)
            loss = loss + term
            found |= facts
        found["loss"] = loss
        return loss, {name: v.detach() if isinstance(v, Tensor) else v for name, v in found.items()}

    def _log(self, steps: Iterable[Step], listener: StepListener) -> None:
        for number, metrics in steps:
            check_finite(metrics["loss"], number - 1, self.plan.steps)
            if math.isnan(metrics["agreement"]):
                del metrics["agreement"]
            else:
                self._agreements.append(metrics["agreement"])
            listener(number, metrics)

    def _finish(self) -> Trained:
        members = tuple(member.eval() for member in self.regulariser.members(self._student))
        self.ranks.same([value for member in members for value in member.state_dict().values()])
        counts = self.ranks.total(self._seen).tolist()
        missed = [n for n, (_, held, found) in enumerate(counts, start=1) if held and not found]
        agreements = self._agreements
        return Trained(members, sum(agreements) / len(agreements) if agreements else 0.0, missed)


def predictor(spec: SpecialistSpec, regulariser: Regulariser, student: SpecialistNetwork) -> Predict:
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
