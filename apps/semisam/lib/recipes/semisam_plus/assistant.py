"""SemiSAM+'s specialist-generalist collaboration as an assistant of a training.

"SemiSAM+: Rethinking semi-supervised medical image segmentation in the era of foundation models",
https://arxiv.org/abs/2502.20749, section 3.4 and 3.5. The specialist's prediction of an unlabelled scan becomes prompts
(Eq. 10), frozen generalists answer several of them (Eq. 11), and the student is drawn to what the answers agree on
(Eq. 12), for all generalists together (Eq. 14).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import torch
from torch import Tensor

from lib.specialists.losses import masked_consistency
from lib.specialists.ramps import sigmoid_ramp
from lib.specialists.regularisers import Observation
from lib.training.assistance import Predict
from lib.training.memory_cache import MemoryLimitedCache
from lib.training.question_schedule import Schedule
from lib.training.sample import Sample
from lib.training.scan_view import ScanView

from .answerers import Answerer, OpenedScan, believed, left_out, only_asked
from .consensus import UNSURE, confident, consensus, keep_sizes
from .examination import Gains, examine, ways
from .question import Kind, PromptMode, Questioner

log = logging.getLogger("semisam.train")

INSTEAD = -1
"""Number of the answerer that takes another one's place."""


@dataclass(frozen=True)
class CollaborationOptions:
    """How the generalists help.

    Args:
        mode: what they are prompted with.
        answers: prompts tried on a scan each time, n of Eq. 11.
        threshold: u_th of Eq. 5, in the units of ``consensus``, 0..1.
        weight: beta of Eq. 14 at the end of its ramp. The paper does not state it.
        ramp: share of the steps in which the weight rises by a sigmoid ramp.
        every: an answer is asked anew when it is older than this share of the steps and its scan is drawn.
        pace: steps of the training for each answer asked anew. It bounds their cost: for each the specialist predicts
            a whole scan, which takes it as long as some steps of its training.
        examined: outlined scans on which a generalist has to show what it knows, at most.
        open_bytes: memory for encoded scans; beyond it the longest unused is encoded again when it is needed.
        answer_bytes: memory for answers.
    """

    mode: PromptMode = "both"
    answers: int = 4
    threshold: float = 0.2
    weight: float = 2.0
    ramp: float = 0.4
    every: float = 0.25
    pace: int = 10
    examined: int = 2
    open_bytes: int = 2**30
    answer_bytes: int = 2**29


class GeneralistAssistant:
    """Asks generalists about the unlabelled scans that are drawn; see ``Assistant``.

    The first question about a scan is about its current label (in the first round the propagated one): a specialist
    that has just begun cannot prompt. Later questions are about the prediction of the specialist in training.

    A generalist that knows structures (``examination``) is asked about each label once: where its answers agree, they
    take the label's place. Asked again about predictions, it drew the specialist away from what it had learned
    (docs/reference/foundation-models-measured.md).

    Answers are kept and asked anew only when their scan is drawn and they are too old, so that their cost depends on
    the steps of a training, not on the size of the study (``Schedule``). Each scan is encoded once, as far as memory
    allows. A scan whose answer had to make room is left alone until it would be asked anew.

    Args:
        answerers: the generalists.
        view: gives a scan by name.
        labelled: names of scans with a human label, which nobody is asked about.
        classes: structures and background.
        options: how they help.
        outline: the human label ``[1 + N, D, H, W]`` of a labelled scan, None for one that is not outlined wholly.
            Without it, no generalist is examined.
        instead: asked in the place of a generalist that knows none of the structures.
        told: called after each question about a scan.
    """

    def __init__(
        self,
        answerers: Sequence[Answerer],
        view: Callable[[str], ScanView],
        labelled: Sequence[str],
        classes: int,
        options: CollaborationOptions,
        *,
        outline: Callable[[str], Tensor | None] = lambda name: None,
        instead: Answerer | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self.channels = len(answerers) * (classes + 1)
        self._answerers = tuple(answerers)
        self._view = view
        self._labelled = tuple(labelled)
        self._outline = outline
        self._instead = instead
        self._told = told
        self._examined: dict[int, Mapping[int, Kind | None]] = {}
        self._classes = classes
        self._options = options
        self._opened: MemoryLimitedCache[OpenedScan]
        self._opened = MemoryLimitedCache(options.open_bytes, lambda scan: scan.bytes)
        self._schedule = Schedule(options.every, options.pace, options.answer_bytes)
        self._predict: Predict | None = None
        self._generator = torch.Generator()

    def start(self, predict: Predict, steps: int, generator: torch.Generator) -> None:
        """Get ready for a training; answers to another specialist are forgotten, encoded scans stay."""
        self._predict = predict
        self._generator = generator
        self._schedule.start(steps)

    def maps(self, name: str, sample: Sample, step: int) -> Tensor:
        """For each generalist the answer ``[1 + N, D, H, W]`` and its uncertainty ``[1, D, H, W]``."""
        if name in self._labelled:
            return self._silence(sample.image.shape[1:])
        label, before = sample.target.float(), self._schedule.answer(name)
        if not self._schedule.asked(name):
            self._schedule.put(name, step, self._ask(name, label), paced=False)
            self._told()
        elif (before is None or not self._lasts()) and self._schedule.turn(name, step):
            about = label if self._lasts() else self._predicted(sample.image)
            self._schedule.put(name, step, self._ask(name, about, before))
            self._told()
        answer = self._schedule.answer(name)
        return self._silence(sample.image.shape[1:]) if answer is None else answer.float()

    def label(self, sample: Sample, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The scan's own label; where the answers of models that know structures agree, they are it, for certain."""
        known = [part for number, part in enumerate(maps.split(self._classes + 1)) if self._knows(number)]
        if not known:
            return sample.target, sample.weight
        sure = [confident(part[None, self._classes :], self._options.threshold)[0] for part in known]
        votes = torch.stack(sure).sum(dim=0)
        answers = torch.stack([part[: self._classes] * mask for part, mask in zip(known, sure, strict=True)]).sum(dim=0)
        target = torch.where(votes > 0, answers / votes.clamp_min(1.0), sample.target.float())
        return target, torch.where(votes > 0, torch.ones_like(sample.weight), sample.weight)

    def _knows(self, number: int) -> bool:
        """Whether a generalist has shown that it knows any structure."""
        return any(self._examined.get(number, {}).values())

    def _lasts(self) -> bool:
        """Whether all answers are about labels, and none need be asked anew."""
        return all(map(self._knows, range(len(self._answerers))))

    def loss(self, seen: Observation) -> tuple[Tensor, dict[str, float]]:
        """``beta * sum over generalists L_rs-con(student, answer, I(U < u_th))``, Eq. 14, on unlabelled scans.

        Logged, where any generalist is sure of anything: the sum, the share of the voxels it is about, and the norm of
        the weighted term's gradient with respect to the student's logits.
        """
        chosen = ~seen.labelled
        nothing = seen.logits.new_zeros(())
        if not bool(chosen.any()):
            return nothing, {}
        student = seen.logits[chosen].softmax(dim=1)
        total, share = nothing, 0.0
        for maps in seen.extra[chosen].split(self._classes + 1, dim=1):
            mask = confident(maps[:, self._classes :], self._options.threshold)
            # Eq. 4 has the squared norm over the classes, not their mean.
            total = total + self._classes * masked_consistency(student, maps[:, : self._classes], mask)
            share += float(mask.mean()) / len(self._answerers)
        if share == 0.0:
            return nothing, {}
        term = self._options.weight * sigmoid_ramp(seen.step, self._options.ramp * seen.steps) * total
        (gradient,) = torch.autograd.grad(term, seen.logits, retain_graph=True)
        facts = {
            "generalist": float(total.detach()),
            "generalist_share": share,
            "generalist_gradient": float(gradient.norm()),
        }
        return term, facts

    def _predicted(self, image: Tensor) -> Tensor:
        """What the specialist in training sees, ``[1 + N, D, H, W]``."""
        if self._predict is None:
            raise RuntimeError("GeneralistAssistant.start must be called first")
        return self._predict(image)

    def _ask(self, name: str, prediction: Tensor, before: Tensor | None = None) -> Tensor | None:
        """Ask all generalists about a scan.

        Args:
            name: of the scan.
            prediction: the specialist's, ``[1 + N, D, H, W]``, sum 1.
            before: the maps as they were: what models that know structures have answered lasts.

        Returns:
            Maps ``[K, D, H, W]`` float16, or None when no structure is seen.
        """
        questioner = Questioner(prediction, self._options.mode)
        if not questioner.asked:
            return None
        parts = []
        for number in range(len(self._answerers)):
            if before is not None and self._knows(number):
                parts.append(before[number * (self._classes + 1) : (number + 1) * (self._classes + 1)].float())
            else:
                parts += self._asked_of(number, name, questioner, prediction)
        return torch.cat(parts).half()

    def _asked_of(self, number: int, name: str, questioner: Questioner, prediction: Tensor) -> list[Tensor]:
        """The mean answer ``[1 + N, D, H, W]`` of one generalist, and its uncertainty ``[1, D, H, W]``."""
        known = self._known(number)
        if known and not any(known.values()) and self._instead is not None:
            number, known = INSTEAD, None
        answerer = self._answerer(number)
        asked = tuple(value for value in questioner.asked if known is None or known.get(value, "") is not None)
        if not asked:
            return [torch.zeros_like(prediction), torch.full_like(prediction[:1], UNSURE)]
        scan = self._open(number, name)
        usual = scan.kinds(self._options.mode)[0]
        kinds = None if known is None else {value: known.get(value) or usual for value in asked}
        answers: list[Tensor] = []
        meant: set[int] = set()
        for _ in range(self._options.answers):
            question = questioner.draw(answerer.points, self._generator, kinds)
            answer = scan.answer(question)
            about = asked if known is None else believed(answer, prediction, asked)
            meant.update(about)
            answers.append(only_asked(answer, about, prediction))
        mean, uncertainty = consensus(answers)
        if not answerer.knows_size:
            mean = keep_sizes(mean, prediction.flatten(1).sum(dim=1))
        return [mean, uncertainty.masked_fill(left_out(prediction, sorted(meant)), UNSURE)[None]]

    def _known(self, number: int) -> Mapping[int, Kind | None] | None:
        """How a generalist is asked about each structure, None for not at all; those not named, as usual.

        None for one that has learnt nothing of structures (features alone), which needs no examination.
        """
        answerer = self._answerers[number]
        if not answerer.knows_size:
            return None
        if number not in self._examined:
            self._examined[number] = self._examine(number, answerer)
        return self._examined[number]

    def _examine(self, number: int, answerer: Answerer) -> Mapping[int, Kind | None]:
        """See whether a generalist corrects wrong outlines; see ``examination``."""
        outlines = (outline for outline in map(self._outlined, self._labelled) if outline is not None)
        gains: Gains = {}
        for name, outline in islice(outlines, self._options.examined):
            scan = self._open(number, name)
            for value, by_kind in examine(scan, outline, self._options.mode, answerer.points).items():
                for kind, found in by_kind.items():
                    gains.setdefault(value, {}).setdefault(kind, []).extend(found)
        for value, by_kind in gains.items():
            text = ", ".join(f"{fmean(found):+.3f} by {kind}" for kind, found in by_kind.items())
            log.info("%s corrects a wrong outline of structure %d by Dice %s", answerer.name, value, text)
        return ways(gains)

    def _outlined(self, name: str) -> tuple[str, Tensor] | None:
        """A labelled scan with its outline, if it is outlined wholly."""
        outline = self._outline(name)
        return None if outline is None else (name, outline.float())

    def _answerer(self, number: int) -> Answerer:
        if number == INSTEAD:
            assert self._instead is not None
            return self._instead
        return self._answerers[number]

    def _open(self, number: int, name: str) -> OpenedScan:
        scan = self._opened.get((number, name)) or self._answerer(number).open(self._view(name))
        self._opened[number, name] = scan  # again, as it may have grown
        return scan

    def _silence(self, shape: Sequence[int]) -> Tensor:
        """Maps that say nothing."""
        maps = torch.zeros(self.channels, *shape)
        maps[self._classes :: self._classes + 1] = UNSURE
        return maps
