"""The pseudo-labels of a round: predicted by the specialist, written with what is known about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from lib.core.uncertainty import normalised_entropy, uncertainty_facts
from lib.specialists.predict import predict_prepared
from lib.specialists.prepare import label_map
from lib.training.agreement import agreement

from .context import Context
from .each_scan import some_scans
from .label_facts import NOT_LEARNED, PseudoLabelFacts
from .learned import missing_in

_SOUND_CONFIDENCE = 0.8
"""Mean confidence of the structures' voxels from which on a specialist's label takes the place of one that failed."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A specialist's answer for one scan.

    Args:
        probabilities: ``[1 + N, D, H, W]`` on the scan's working grid, sum 1.
        label: ``[D, H, W]`` uint8 on the scan's own grid.
        agreement: mean Dice with the label of the round before, 0..1; None where there is none.
    """

    probabilities: Tensor
    label: np.ndarray
    agreement: float | None = None


def counter(run: Context, stage: str, names: Sequence[str]) -> Callable[[dict[str, float]], None]:
    """Tells the reporter, for each scan this process has done, what all have done by then, if they are as fast."""
    left, world = len(names), run.ranks.world

    def count(metrics: dict[str, float]) -> None:
        nonlocal left
        units = min(world, left)
        left -= units
        run.reporter.advance(stage, metrics, units=units)

    return count


def label_study(
    run: Context, index: int, members_of: Callable[[str], Sequence[nn.Module]]
) -> Mapping[str, PseudoLabelFacts]:
    """Predict every scan without a human label and write its pseudo-label.

    Args:
        run: the run.
        index: of the round; its folder must have been begun.
        members_of: gives the networks whose probabilities are averaged for the scan of that name.

    Returns:
        What is known about every pseudo-label.
    """

    def predict(name: str) -> tuple[Tensor, np.ndarray]:
        prepared = run.study.prepared(name)
        probabilities = predict_prepared(members_of(name), run.study.spec, prepared.image.float())
        return probabilities, label_map(prepared.frame, probabilities, run.study.spec.volume_weights)

    return label_by(run, index, predict)


def label_by(
    run: Context, index: int, predict: Callable[[str], tuple[Tensor, np.ndarray]]
) -> Mapping[str, PseudoLabelFacts]:
    """Write a pseudo-label for every scan without a human label, as ``predict`` says.

    Args:
        run: the run.
        index: of the round; its folder must have been begun.
        predict: gives, for a scan's name, probabilities ``[1 + N, D, H, W]`` on its working grid and its label map on
            its own grid.

    Returns:
        What is known about every pseudo-label.
    """
    run.reporter.begin("prediction", index)
    names = run.study.unlabelled()
    count = counter(run, "prediction", names)

    def keep(name: str) -> tuple[PseudoLabelFacts, float]:
        probabilities, label = predict(name)
        prediction = Prediction(probabilities, label, agreement_with_current(run, name, probabilities))
        return keep_prediction(run, index, name, prediction)

    def done(result: tuple[PseudoLabelFacts, float] | None) -> None:
        count({} if result is None else {"uncertainty": result[1]})

    facts = {name: found for name, (found, _) in some_scans(run, names, keep, done).items()}
    report_agreement(run, [each.agreement for each in facts.values()])
    return facts


def keep_prediction(run: Context, index: int, name: str, prediction: Prediction) -> tuple[PseudoLabelFacts, float]:
    """Write a prediction as the pseudo-label of a scan.

    Args:
        run: the run.
        index: of the round; its folder must have been begun.
        name: of the scan.
        prediction: what to write.

    Returns:
        What is known about the label, and the mean uncertainty of all voxels, 0..1.
    """
    part = run.folder.open_round(index)
    probabilities = prediction.probabilities
    uncertainty = normalised_entropy(probabilities)
    run.study.write_target(part, name, probabilities, 1.0 - uncertainty)
    means = uncertainty_facts(probabilities, uncertainty)
    earlier, missing = run.kept_facts(run.folder.round(index - 1), name), missing_in(run.study, prediction.label)
    sound = earlier is None or earlier.sound or (not missing and means["confidence"] >= _SOUND_CONFIDENCE)
    facts = PseudoLabelFacts(
        confidence=means["confidence"],
        uncertainty=means["uncertainty"],
        templates=earlier.templates if earlier else tuple(run.study.human()),
        round=index,
        source="specialist",
        agreement=prediction.agreement,
        warnings=missing if sound else (*missing, NOT_LEARNED),
        sound=sound,
    )
    facts = run.keep_label(part, name, prediction.label, run.study.prepared(name).affine, facts)
    return facts, float(uncertainty.mean())


def agreement_with_current(run: Context, name: str, probabilities: Tensor) -> float | None:
    """Mean Dice of the structures between a new label and the one of the round before, None without one."""
    before = run.study.current(name)
    if before is None:
        return None
    return round(agreement(probabilities[None], before.probabilities.float()[None]), 4)


def report_agreement(run: Context, agreements: Iterable[float | None]) -> None:
    """Report the mean agreement with the round before, over the scans that had a label then."""
    known = [each for each in agreements if each is not None]
    if known:
        run.reporter.best(sum(known) / len(known))
