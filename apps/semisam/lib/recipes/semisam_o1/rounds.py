"""The pseudo-labels of a round of SemiSAM-O1: predictions, and their unsure voxels corrected; see ``refinement``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from lib.core.devices import with_room
from lib.core.uncertainty import normalised_entropy
from lib.recipes.engine.context import Context
from lib.recipes.engine.each_scan import each_scan, some_scans
from lib.recipes.engine.kept_training import TrainingNumber
from lib.recipes.engine.label_facts import PseudoLabelFacts
from lib.recipes.engine.labelling import (
    Prediction,
    agreement_with_current,
    counter,
    keep_prediction,
    report_agreement,
)
from lib.specialists.predict import predict_prepared
from lib.specialists.prepare import label_map

from .earlier_rounds import with_earlier
from .evidence import RoundEvidence
from .refinement import Evidence, RefinementOptions, refine, usual_distance

_KEPT = 128
"""Scans whose evidence is kept in memory."""


def predict_study(run: Context, index: int, members: Sequence[nn.Module], options: RefinementOptions) -> None:
    """Predict every scan without a human label and collect the evidence for the refinement, in the round's folder.

    Args:
        run: the run.
        index: of the round; its folder must have been begun.
        members: networks whose probabilities are averaged.
        options: how to refine.
    """
    evidence = RoundEvidence(run, index, options)
    run.reporter.begin("prediction", index)
    outlined, names = run.study.dense(), run.study.unlabelled()
    random = _random_numbers(run, index, [*outlined, *names])

    def outline(name: str) -> None:
        probabilities = run.study.target(name).probabilities.float()
        evidence.collect(name, probabilities, torch.zeros(probabilities.shape[1:]), random(name))

    each_scan(run, outlined, outline)
    count = counter(run, "prediction", names)

    def predict(name: str) -> tuple[float | None, float]:
        probabilities = predict_prepared(members, run.study.spec, run.study.prepared(name).image.float())
        uncertainty = normalised_entropy(probabilities)
        evidence.keep_prediction(name, probabilities, uncertainty)
        evidence.collect(name, probabilities, uncertainty, random(name))
        return agreement_with_current(run, name, probabilities), float(uncertainty.mean())

    def done(result: tuple[float | None, float] | None) -> None:
        count({} if result is None else {"uncertainty": result[1]})

    report_agreement(run, [agreement for agreement, _ in some_scans(run, names, predict, done).values()])


def refine_study(run: Context, index: int, options: RefinementOptions) -> Mapping[str, PseudoLabelFacts]:
    """Correct the unsure voxels of every prediction of the round and write its pseudo-labels.

    Returns:
        What is known about every pseudo-label.
    """
    run.reporter.begin("refinement", index)
    evidence = RoundEvidence(run, index, options)
    corrected = _Correction(run, evidence, options)
    names = run.study.unlabelled()
    count = counter(run, "refinement", names)

    def correct(name: str) -> tuple[PseudoLabelFacts, float]:
        refined, unsure = corrected(name)
        joined = with_earlier(run, name, refined)
        label = label_map(run.study.prepared(name).frame, joined, run.study.spec.volume_weights)
        # Of the label before it is joined: what is joined agrees in any case.
        prediction = Prediction(joined, label, agreement_with_current(run, name, refined))
        facts, _ = keep_prediction(run, index, name, prediction)
        evidence.drop_prediction(name)
        return facts, float(unsure)

    def done(result: tuple[PseudoLabelFacts, float] | None) -> None:
        count({} if result is None else {"unsure_voxels": result[1]})

    found = {name: facts for name, (facts, _) in some_scans(run, names, correct, done).items()}
    evidence.remove()
    return found


class _Correction:
    """Corrects the prediction of one scan after the other.

    Args:
        run: the run.
        evidence: of all scans of the round.
        options: how to refine.
    """

    def __init__(self, run: Context, evidence: RoundEvidence, options: RefinementOptions) -> None:
        self._run = run
        self._evidence = evidence
        self._options = options
        self._scans = [*run.study.dense(), *run.study.unlabelled()]
        self._signatures = torch.stack([run.study.prepared(name).signature for name in self._scans])
        # Scans ask those that are like them, which are like each other: few are read twice, and few are kept.
        self._of_others = lru_cache(_KEPT)(lambda name: evidence.load(name, wanted=False))
        generator = torch.Generator().manual_seed(run.options.seed)
        self._usual = usual_distance((self._of_others(name) for name in self._scans), generator)

    def __call__(self, name: str) -> tuple[Tensor, int]:
        """The corrected probabilities ``[1 + N, D, H, W]`` of a scan, and how many of its voxels were unsure."""
        others = self._most_similar(name)
        own = self._evidence.load(name, wanted=True)
        probabilities = self._evidence.prediction(name)

        def compute(device: str) -> Tensor:
            asked = [other.to(device) for other in others]  # kept on the CPU: a GPU holds no study
            return refine(probabilities.to(device), own.to(device), asked, self._usual, self._options).cpu()

        return with_room(self._run.options.device, compute, "refinement"), len(own.unsure)

    def _most_similar(self, name: str) -> list[Evidence]:
        scans, count = self._scans, self._options.scans
        similarity = self._signatures @ self._run.study.prepared(name).signature
        order = sorted(range(len(scans)), key=lambda n: (-float(similarity[n]), scans[n]))
        return [self._of_others(scans[n]) for n in order[: count + 1] if scans[n] != name][:count]


def _random_numbers(run: Context, index: int, names: Sequence[str]) -> Callable[[str], torch.Generator]:
    """The generator that chooses a scan's evidence in a round."""
    seed = TrainingNumber(index).seed(run.options.seed)
    one_after_another = torch.Generator().manual_seed(seed)
    numbers = {name: number for number, name in enumerate(names)}

    def random(name: str) -> torch.Generator:
        # Processes that share the scans cannot share one row of random numbers.
        if run.ranks.world == 1:
            return one_after_another
        return torch.Generator().manual_seed(seed * 1_000_003 + numbers[name])

    return random
