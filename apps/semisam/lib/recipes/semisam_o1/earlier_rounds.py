"""What SemiSAM-O1 keeps of earlier rounds: a share of their labels, their teachers, and when no more are needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import fmean as mean

import torch
from torch import Tensor, nn

from lib.recipes.engine.context import Context
from lib.recipes.engine.record import CHECKPOINT
from lib.recipes.engine.report import FinishedRound
from lib.specialists.checkpoint import load_specialist

log = logging.getLogger("semisam.train")

SETTLED = 0.985
"""Mean Dice between the pseudo-labels of two rounds from which on a further round is not worth its time."""

EARLIER = 1 / 3
"""Share of the round before in a round's pseudo-labels, see ``with_earlier``."""


def settled(finished: FinishedRound) -> bool:
    """Whether the pseudo-labels of a round are almost those of the round before.

    The agreement is that of the new label before ``with_earlier`` with the stored label of the round before.
    """
    labels = finished.pseudo_labels.values()
    agreements = [label.agreement for label in labels if label.agreement is not None]
    if not agreements or mean(agreements) < SETTLED:
        return False
    log.info(
        "the pseudo-labels agree to %.3f with those of the round before: no further round is needed", mean(agreements)
    )
    return True


def with_earlier(run: Context, name: str, probabilities: Tensor) -> Tensor:
    """A new label ``[1 + N, D, H, W]`` averaged with the one of the round before, if there is one.

    Temporal ensembling (Laine and Aila, https://arxiv.org/abs/1610.02242). The specialist's errors are others than
    those of the propagation: where the two differ, the label becomes unsure. One that is hardly right as a whole is not
    averaged in.
    """
    before = None if run.study.is_unsound(name) else run.study.current(name)
    return probabilities if before is None else torch.lerp(probabilities, before.probabilities.float(), EARLIER)


def with_earlier_members(run: Context, index: int, members: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """The networks to publish after a round: its best ones and those of the rounds before.

    A training from scratch may turn out worse than the one before, which cannot be seen without a labelled validation
    set; the mean of all is about as good as the best.

    Args:
        run: the run.
        index: of the round.
        members: of the round, as ``train_networks`` gives them.
    """
    if index == 1:
        return members
    earlier = load_specialist(run.folder.round(index - 1) / CHECKPOINT, run.options.device)
    count = run.budget.networks
    return [*members[:count], *earlier.members[: (index - 1) * count]]
