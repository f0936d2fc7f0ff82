"""FM-ABS's specialist-generalist collaboration as an assistant of a training.

"FM-ABS: Promptable Foundation Model Drives Active Barely Supervised Learning", MICCAI 2024, section 2.2: the teacher's
prediction of a scan becomes boxes and points on the slices of three views, a frozen generalist answers each slice, what
the views agree on is a pseudo-label, and the student learns it by a loss that wrong labels pull at less (Eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib.generalists.slices import View
from lib.specialists.losses import noise_tolerant_dice
from lib.specialists.ramps import sigmoid_ramp
from lib.specialists.regularisers import Observation
from lib.training.assistance import Predict
from lib.training.question_schedule import Schedule
from lib.training.sample import Sample
from lib.training.scan_view import ScanView

from .answerers import ScanAnswers, SliceAnswerer
from .fusion import NOBODY, Fusion, fuse
from .prompts import PromptOptions, large_parts, prompts_of

VIEWS = (View(2), View(1), View(0))
"""Axial, coronal, sagittal."""


@dataclass(frozen=True)
class SliceOptions:
    """How the generalist helps.

    Args:
        fusion: how many views must agree.
        weight: lambda_sam at the start.
        gamma: of Eq. 2.
        warm_up: share of the steps before the first question, unless the scan has a pseudo-label to begin with. Early
            predictions contain false positives; prompting with them would reinforce them.
        every: an answer is asked anew when it is older than this share of the steps and its scan is drawn. The paper
            refreshes all scans "in a few task-specific rounds".
        answer_bytes: memory for answers.
        prompts: how slices are prompted.
    """

    fusion: Fusion = "majority"
    weight: float = 0.5
    gamma: float = 1.5
    warm_up: float = 0.4
    every: float = 0.1
    answer_bytes: int = 2**29
    prompts: PromptOptions = field(default_factory=PromptOptions)


def generalist_weight(step: int, steps: int, most: float) -> float:
    """``lambda_sam(t) = 0.5 (1 - exp(-5 (1 - t / t_max)^2))``, section 2.2; 0.5 is ``most``."""
    return most * (1.0 - sigmoid_ramp(step, steps))


class SliceAssistant:
    """Asks a generalist about every scan that is drawn, labelled or not; see ``Assistant``.

    Answers are kept (one byte a voxel), as far as memory allows, and asked anew only when their scan is drawn, they are
    too old, and the answerer's pace allows it (``Schedule``): in small studies that leaves a few rounds; in large ones
    the scans that are drawn most are asked about, and the others as far as it goes. Until its first answer nothing is
    said about a scan.

    Args:
        answerer: the generalist.
        view: gives a scan by name, as the generalist knows it.
        known: a scan's soft label ``[1 + N, D, H, W]`` from an earlier round, which is asked about in place of the
            teacher's prediction until the warm-up is over; None when there is none.
        classes: structures and background.
        options: how it helps.
        told: called after each question about a scan.
    """

    def __init__(
        self,
        answerer: SliceAnswerer,
        view: Callable[[str], ScanView],
        known: Callable[[str], Tensor | None],
        classes: int,
        options: SliceOptions,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self.channels = classes + 1
        self._answerer = answerer
        self._view = view
        self._known = known
        self._classes = classes
        self._options = options
        self._told = told
        self._schedule = Schedule(options.every, answerer.pace, options.answer_bytes)
        self._predict: Predict | None = None
        self._generator = torch.Generator()
        self._steps = 1

    def start(self, predict: Predict, steps: int, generator: torch.Generator) -> None:
        """Get ready for a training; answers to an earlier specialist are forgotten."""
        self._predict = predict
        self._steps = steps
        self._generator = generator
        self._schedule.start(steps)

    def maps(self, name: str, sample: Sample, step: int) -> Tensor:
        """The pseudo-label as one-hot ``[1 + N, D, H, W]``, and 1 where it is of use ``[1, D, H, W]``."""
        label = self._label(name, sample, step)
        maps = torch.zeros(self.channels, *sample.image.shape[1:])
        if label is not None:
            for value in range(self._classes):
                maps[value] = label == value
            maps[-1] = label != NOBODY
        return maps

    def label(self, sample: Sample, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The scan's own: the pseudo-label has a loss of its own."""
        return sample.target, sample.weight

    def loss(self, seen: Observation) -> tuple[Tensor, dict[str, float]]:
        """``lambda_sam(t)`` times Eq. 2 with the pseudo-labels.

        A class counts in those windows whose pseudo-label holds it: for an absent one, Eq. 2 would be large and fall
        as its probabilities rise.

        Logged, where there is any pseudo-label: the loss, the share of the voxels it is about, and the norm of the
        weighted term's gradient with respect to the student's logits.
        """
        target, use = seen.extra[:, :-1], seen.extra[:, -1:]
        # Windows are cut in between the voxels: beside "no agreement" the one-hot values sum to less than 1.
        use = (use > 0.99).float()
        present = ((target * use).flatten(2).sum(-1) >= 1.0).float()[..., None, None, None]
        weight = generalist_weight(seen.step, seen.steps, self._options.weight)
        if weight == 0.0 or not bool(present.any()):
            return seen.logits.new_zeros(()), {}
        loss = noise_tolerant_dice(seen.logits.softmax(dim=1), target, use * present, self._options.gamma)
        term = seen.share * weight * loss * present.numel() / present.sum()
        (gradient,) = torch.autograd.grad(term, seen.logits, retain_graph=True)
        facts = {
            "generalist": float(term.detach()) / (seen.share * weight),
            "generalist_share": float(use.mean()),
            "generalist_gradient": float(gradient.norm()),
        }
        return term, facts

    def _label(self, name: str, sample: Sample, step: int) -> Tensor | None:
        """The pseudo-label of a scan ``[D, H, W]`` uint8, asked now when it is too old and its turn; None without."""
        early = step < self._options.warm_up * self._steps
        known = self._known(name) if early and not self._schedule.asked(name) else None
        if (known is not None or not early) and self._schedule.turn(name, step):
            seen = self._predicted(sample.image) if known is None else known.float()
            self._schedule.put(name, step, self._ask(name, seen))
            self._told()
        return self._schedule.answer(name)

    def _predicted(self, image: Tensor) -> Tensor:
        """What the teacher sees, ``[1 + N, D, H, W]``."""
        if self._predict is None:
            raise RuntimeError("SliceAssistant.start must be called first")
        return self._predict(image)

    def _ask(self, name: str, prediction: Tensor) -> Tensor | None:
        """Ask about a scan whose soft label ``[1 + N, D, H, W]`` is ``prediction``; None when it holds no structure."""
        seen = prediction.argmax(dim=0)
        if not bool(seen.any()):
            return None
        scan = self._answerer.open(self._view(name))
        # A 2D image has one view; across it, it is a line one pixel wide.
        used = [view for view in VIEWS if min(n for a, n in enumerate(seen.shape) if a != view.axis) > 1]
        views = torch.stack([self._look(scan, view, seen) for view in used])
        if not bool(views.any()):
            return None
        return fuse(views, self._options.fusion) if len(used) == len(VIEWS) else views[0]

    def _look(self, scan: ScanAnswers, view: View, seen: Tensor) -> Tensor:
        """The label map ``[D, H, W]`` uint8 of one view: the most probable structure of those with 0.5 or more.

        Where two are equally probable, as in graph cuts, the one that the teacher sees.
        """
        best = torch.full(seen.shape, 0.5)
        label = torch.zeros(seen.shape, dtype=torch.uint8)
        for value in range(1, self._classes):
            if not bool((seen == value).any()):
                continue
            parts = torch.stack(large_parts(seen == value)).any(0)
            prompts = prompts_of(view.stack(parts), self._options.prompts, self._generator)
            if prompts:
                found = scan.answer(view, prompts)
                label[(found > best) | ((found == best) & ((label == 0) | (seen == value)))] = value
                best = torch.maximum(best, found)
        return label
