"""Two networks that learn from labels and from each other.

SC-SAM (Vu et al., "From specialist to generalist: unlocking SAM's learning potential on unlabeled medical images"),
equations 1 to 7. Pseudo-labels are made on a weakly changed slice and learned on the same slice changed strongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.core.devices import torch_seeded
from lib.parallel.ranks import Ranks, connection
from lib.specialists.augment import Augmentation
from lib.specialists.losses import soft_cross_entropy, soft_dice
from lib.specialists.networks.sam.build import SamSpecialist
from lib.specialists.networks.sam.point_prompts import Points
from lib.specialists.precision import MixedPrecision, repeatable_convolutions
from lib.specialists.ramps import linear_ramp, poly_decay, sigmoid_ramp
from lib.training.agreement import agreement, holds_structure
from lib.training.loop import StepListener, check_finite, shared_rate
from lib.training.metrics_queue import mean_metrics
from lib.training.sampling import Batch, SampleSource, TwoStreams, WindowOptions
from lib.training.shared_scans import SharedScans

from .slices import SliceSource

BEHIND = 0.2
"""A network whose Dice is so much lower than the other's has nothing to teach it."""
_LEAST = 0.5
_NEWS = 0.1
"""Share of the last step in the averaged Dice."""
_NOTHING = 0.01
"""What counts less is not worth the time."""

WEAK = Augmentation(elastic=0.0, contrast=0.1, brightness=0.1, noise=0.05, bias=0.1, undeformed=0.0)
"""Changes of every slice."""
STRONG = Augmentation(
    rotation=0.15, scale=0.1, elastic=2.5, contrast=0.3, brightness=0.3, noise=0.25, bias=0.3, undeformed=0.0
)
"""Further changes of a slice without a label, before it is learned from."""


@dataclass(frozen=True)
class CoTrainingPlan:
    """How to train.

    Args:
        steps: of the whole co-training.
        batch: slices with a human label in a step, in each process; as many without one where there are such scans.
        unet_rate: learning rate of AdamW for the U-Net at the start; it falls to 0 polynomially. For one process, see
            ``shared_rate``.
        sam_rate: likewise for SAM.
        decay: weight decay.
        warm_up: share of the steps in which the learning rates rise.
        clip: largest norm of each network's gradient.
        ramp: share of the steps in which the weight w of the U-Net's pseudo-labels for SAM rises to 1; 0 for none.
        ramp_to_unet: let SAM's pseudo-labels for the U-Net rise alike. In the paper they count from the start, as a
            pretrained SAM is ahead of the U-Net; one that starts from random weights is not.
        earned: pseudo-labels count as much as their author's answers to the human labels have earned, see ``Standing``.
        weak: see ``WEAK``.
        strong: see ``STRONG``.
    """

    steps: int
    batch: int = 8
    unet_rate: float = 4e-3
    sam_rate: float = 5e-4
    decay: float = 1e-4
    warm_up: float = 0.05
    clip: float = 5.0
    ramp: float = 0.25
    ramp_to_unet: bool = False
    earned: bool = False
    weak: Augmentation = field(default_factory=lambda: WEAK)
    strong: Augmentation = field(default_factory=lambda: STRONG)

    def to_sam(self, step: int) -> float:
        """w(t): the weight of the U-Net's pseudo-labels for SAM, equation 6 with the factor 5 of the authors' code."""
        return sigmoid_ramp(step, self.ramp * self.steps)

    def to_unet(self, step: int) -> float:
        """The weight of SAM's pseudo-labels for the U-Net, equation 5."""
        return self.to_sam(step) if self.ramp_to_unet else 1.0


def segmentation_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean of cross-entropy and Dice, ``[B, C, D, H, W]`` against soft labels.

    Dice is that of all slices of the batch together: slice by slice, one with three pixels of a structure would count
    as much as one full of it.
    """
    overlap = soft_dice(_one_stack(logits.softmax(dim=1)), _one_stack(targets), _one_stack(weights))
    return 0.5 * (soft_cross_entropy(logits, targets, weights) + overlap)


class Standing:
    """How well both networks answer about human labels, and what their pseudo-labels are worth to the other.

    A network that has not learned anything says "background" everywhere, and the other one learns that from it before
    it has learned better: both then agree, for good. So a pseudo-label counts by the Dice that its author has reached
    lately on the human labels: from nothing at one half to everything at 1, and less if the other one is ahead: nothing
    when by ``BEHIND`` or more.
    """

    def __init__(self) -> None:
        self.unet = self.sam = 0.0
        """Dice of the last steps, averaged, 0..1."""

    def see(self, metrics: Mapping[str, float]) -> None:
        """Take note of a step."""
        if "agreement" in metrics:
            self.unet += _NEWS * (metrics["agreement"] - self.unet)
            self.sam += _NEWS * (metrics["sam_agreement"] - self.sam)

    def to_sam(self) -> float:
        """What the U-Net's pseudo-labels are worth, 0..1."""
        return _worth(self.unet, self.sam)

    def to_unet(self) -> float:
        """What SAM's pseudo-labels are worth, 0..1."""
        return _worth(self.sam, self.unet)


class CoTraining:
    """A U-Net and a SAM in training; may be interrupted and continued (``state``, ``restore``).

    Args:
        pair: both, on the device.
        plan: how to train.
        device: ``cpu`` or ``cuda[:n]``.
        ranks: the processes that share the training, each with slices of its own; None for this process alone.
    """

    def __init__(
        self, pair: SamSpecialist, plan: CoTrainingPlan, device: str = "cpu", ranks: Ranks | None = None
    ) -> None:
        self.pair = pair
        self.plan = plan
        self.done = 0
        """Steps done."""
        self.standing = Standing()
        self._device = device
        self._precision = MixedPrecision(device)
        self._unet = _optimiser(pair.unet, plan.decay)
        self._sam = _optimiser(pair.sam, plan.decay)
        self._ranks = ranks or Ranks()
        self._unet_pass = self._ranks.synchronised(pair.unet)
        # SAM has parts that a prompt with points does not use.
        self._sam_pass = self._ranks.synchronised(_SamPass(pair), find_unused_parameters=True)

    def run(
        self, source: SliceSource, size: Sequence[int], steps: int, generator: torch.Generator, listener: StepListener
    ) -> None:
        """Train for some of the plan's steps.

        Args:
            source: the slices.
            size: voxels of a window, one of them across the slices.
            steps: how many.
            generator: source of all random numbers (CPU).
            listener: told about each step; it counts from 1 at each call of ``run``.

        Raises:
            UserError: when a loss is no longer a number.
        """
        streams_in_a_step = 2 if source.pseudo() else 1
        scans: SampleSource = source if self._ranks.world == 1 else SharedScans(source, self._ranks)
        options = WindowOptions(streams_in_a_step * self.plan.batch, 1.0 / streams_in_a_step, self.plan.weak)
        streams = TwoStreams(scans, size, options, generator, self._device)
        dropout = int(torch.randint(2**31, (1,), generator=generator))
        with torch_seeded(dropout, self._device), repeatable_convolutions():
            for number in range(steps):
                with connection():
                    metrics = self.step(streams.draw(), generator)
                listener(number + 1, metrics)
        self._ranks.same(list(self.pair.state_dict().values()))
        self.pair.eval()

    def step(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """Learn from one batch; the slices that are not a human's have no targets yet."""
        self._set_rates()
        labelled = batch.labelled
        images, targets, weights = batch.images[labelled], batch.targets[labelled], batch.weights[labelled]
        count = len(images)
        to_unet, to_sam = self._weights()
        pseudo = None
        if count < len(batch.images) and (to_unet or to_sam):
            changed, of_unet, of_sam = self.teach(batch.images[~labelled], generator)
            images, pseudo = torch.cat([images, changed]), (of_unet, of_sam)
        self.pair.train()
        with self._precision():
            unet, sam = self._both(images, generator, None if to_sam else count)
        unet_loss = segmentation_loss(unet[:count], targets, weights)
        sam_loss = segmentation_loss(sam[:count], targets, weights)
        metrics = {
            "unet_human": float(unet_loss.detach()),
            "sam_human": float(sam_loss.detach()),
        }
        if holds_structure(targets, weights):
            metrics["agreement"] = agreement(unet[:count].detach(), targets, weights)
            metrics["sam_agreement"] = agreement(sam[:count].detach(), targets, weights)
        if pseudo is not None:
            of_unet, of_sam = pseudo
            everywhere = torch.ones_like(of_unet[:, :1])
            unet_from_sam = segmentation_loss(unet[count:], of_sam, everywhere)
            unet_loss = unet_loss + to_unet * unet_from_sam
            metrics["unet_from_sam"] = float(unet_from_sam.detach())
            if len(sam) > count:
                sam_from_unet = segmentation_loss(sam[count:], of_unet, everywhere)
                sam_loss = sam_loss + to_sam * sam_from_unet
                metrics["sam_from_unet"] = float(sam_from_unet.detach())
            metrics["together"] = agreement(of_sam, of_unet)
        metrics["loss"] = float((unet_loss + sam_loss).detach())
        if self._ranks.world > 1:
            metrics = mean_metrics(self._ranks.gather(metrics))
        self.standing.see(metrics)
        check_finite(metrics["loss"], self.done, self.plan.steps)
        # The points are chosen by an argmax, so neither loss reaches the other network.
        for loss, optimiser in ((unet_loss, self._unet), (sam_loss, self._sam)):
            optimiser.zero_grad(set_to_none=True)
            self._precision.step(loss, optimiser, self.plan.clip)
        self.done += 1
        return metrics

    def _weights(self) -> tuple[float, float]:
        """What pseudo-labels count now: SAM's for the U-Net, the U-Net's for SAM."""
        to_unet, to_sam = self.plan.to_unet(self.done), self.plan.to_sam(self.done)
        if self.plan.earned:
            weights = to_unet * self.standing.to_unet(), to_sam * self.standing.to_sam()
            to_unet, to_sam = (0.0 if weight < _NOTHING else weight for weight in weights)
        return to_unet, to_sam

    def _both(self, images: Tensor, generator: torch.Generator, first: int | None = None) -> tuple[Tensor, Tensor]:
        """The logits of the U-Net, and those of SAM, with points from them, for the ``first`` images or for all."""
        unet = self._unet_pass(images).float()
        points = self.pair.points(unet[:first].detach().argmax(dim=1), generator)
        return unet, self._sam_pass(images[:first], points).float()

    def _classes(self, weak: Tensor) -> tuple[Tensor, Tensor]:
        """What both networks say, ``[B, D, H, W]`` integers each."""
        unet = self.pair.unet(weak).argmax(dim=1)
        return unet, self.pair.ask(weak, unet).argmax(dim=1)

    @torch.no_grad()
    def teach(self, weak: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What both networks say about slices without a label, carried over to a stronger change of them.

        Args:
            weak: ``[B, inputs, D, H, W]``.
            generator: draws the changes (CPU).

        Returns:
            The changed slices, and as targets ``[B, C, D, H, W]`` the classes of the U-Net and of SAM.
        """
        self.pair.eval()
        with self._precision():
            unet, sam = self._classes(weak)
        classes = self.pair.width
        said = [functional.one_hot(c, classes).movedim(-1, 1).float() for c in (unet, sam)]
        maps = torch.cat(said, dim=1)
        size = weak.shape[2:]
        centre = [(n - 1) / 2 for n in size]
        windows = [
            self.plan.strong.window(image, own, centre, size, generator)
            for image, own in zip(weak.float(), maps, strict=True)
        ]
        changed = torch.stack([image for image, _ in windows])
        cut = torch.stack([own for _, own in windows])
        return changed, cut[:, :classes], cut[:, classes:]

    def state(self) -> dict[str, Any]:
        """Everything that ``restore`` needs; tensors and plain types."""
        return {
            "done": self.done,
            "steps": self.plan.steps,
            "standing": [self.standing.unet, self.standing.sam],
            "pair": {key: value.cpu() for key, value in self.pair.state_dict().items()},
            "unet": self._unet.state_dict(),
            "sam": self._sam.state_dict(),
            "precision": self._precision.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        # By another number of processes, the same part of the training has another number of steps. The version before
        # did not write the number of steps; there it did not depend on the processes.
        steps = state.get("steps", self.plan.steps * self._ranks.world)
        self.done = round(state["done"] / steps * self.plan.steps)
        self.standing.unet, self.standing.sam = state.get("standing", (0.0, 0.0))
        self.pair.load_state_dict(state["pair"])
        self._unet.load_state_dict(state["unet"])
        self._sam.load_state_dict(state["sam"])
        self._precision.restore(state["precision"])

    def _set_rates(self) -> None:
        plan = self.plan
        share = linear_ramp(self.done + 1, plan.warm_up * plan.steps) * poly_decay(self.done, plan.steps)
        for optimiser, rate in ((self._unet, plan.unet_rate), (self._sam, plan.sam_rate)):
            for group in optimiser.param_groups:
                group["lr"] = shared_rate(rate, self._ranks.world) * share


class _SamPass(nn.Module):
    """A pair's SAM as a network of its own, without the U-Net's parameters; see ``SamSpecialist.answer``."""

    def __init__(self, pair: SamSpecialist) -> None:
        super().__init__()
        self.sam = pair.sam
        self._answer = pair.answer

    def forward(self, images: Tensor, points: Points) -> Tensor:
        return self._answer(images, points)


def _worth(teacher: float, pupil: float) -> float:
    known = max(0.0, (teacher - _LEAST) / (1.0 - _LEAST))
    return known * min(1.0, max(0.0, 1.0 - (pupil - teacher) / BEHIND))


def _optimiser(network: nn.Module, decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], weight_decay=decay)


def _one_stack(values: Tensor) -> Tensor:
    """``[B, C, D, H, W]`` as one volume ``[1, C, B * D, H, W]``."""
    return values.transpose(0, 1).flatten(1, 2)[None]
