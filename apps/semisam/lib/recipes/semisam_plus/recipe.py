"""SemiSAM+ as an algorithm; the package says what deviates from the paper.

::

    round 0   pseudo-labels <- propagate the human labels                            engine/round_zero.py
    round r   minimise Eq. 14, with one generalist Eq. 13:
                  L_sup(human labels)                                                lib/training/objectives.py
                  + lambda L_unsup(unlabelled), e.g. Eq. 4-8                         lib/specialists/regularisers/
                  + beta sum over generalists L_sam(unlabelled), Eq. 12              assistant.GeneralistAssistant.loss
              where, for a scan that is drawn,
                  Eq. 10   prompts <- the specialist's prediction                    question.Questioner.draw
                  Eq. 9    answers <- the frozen generalist, n times                 promptable.py, random_walk.py
                  Eq. 11   U <- how much the answers differ                          consensus.consensus
                  Eq. 5    mask <- U < u_th                                          consensus.confident
              pseudo-labels <- predict all scans                                     engine/labelling.py
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor

from lib.generalists import Generalist, unwrap
from lib.generalists.base import Promptable
from lib.generalists.mind import Mind
from lib.recipes.engine.context import Context
from lib.recipes.engine.each_scan import stored_view
from lib.recipes.engine.kept_training import KEPT_TRAININGS
from lib.recipes.engine.labelling import label_study
from lib.recipes.engine.prepared_study import PreparedStudy
from lib.recipes.engine.recipe import Recipe
from lib.recipes.engine.report import FinishedRound
from lib.recipes.engine.round_zero import propagate_study
from lib.recipes.engine.stages import plan_of, train_networks
from lib.training.assistance import Assistant
from lib.training.question_schedule import Schedule

from .answerers import Answerer
from .assistant import CollaborationOptions, GeneralistAssistant
from .promptable import PromptableAnswerer
from .question import PromptMode
from .random_walk import WalkAnswerer

WITH_MASK = 24
"""Points of a class for features; beside a mask few are enough."""
WITHOUT_MASK = 200


def run_semisam_plus(
    run: Context, finished: FinishedRound | None, generalists: Sequence[Generalist] = ()
) -> FinishedRound:
    """Run all rounds after ``finished`` (None: from the propagation on), and return the last one.

    Args:
        run: the run.
        finished: the last round that is done.
        generalists: all that are asked; by default those of the run.
    """
    if finished is None:
        finished = propagate_study(run)
    assistant = assistant_of(run, generalists or run.asked)
    for index in range(finished.index + 1, run.budget.rounds + 1):
        finished = run_round(run, index, assistant)
    return finished


def run_round(run: Context, index: int, assistant: Assistant) -> FinishedRound:
    """Train with the generalists' help, then label the study anew."""
    run.folder.new_round(index, keep=KEPT_TRAININGS)
    members = train_networks(run, index, plan_of(run), assistant)
    labels = label_study(run, index, lambda _: members)
    return run.end_round(index, labels, members)


def assistant_of(run: Context, generalists: Sequence[Generalist]) -> GeneralistAssistant:
    """All generalists as one assistant."""
    options = CollaborationOptions(mode=cast("PromptMode", run.options.prompts))
    answerers = [answerer_of(generalist, options.mode) for generalist in generalists]
    study = run.study
    outline, instead = partial(outline_of, study), answerer_of(Mind(), options.mode)
    return GeneralistAssistant(
        answerers,
        partial(stored_view, run),
        study.human(),
        run.schema.channels,
        options,
        outline=outline,
        instead=instead,
        told=run.reporter.asked,
    )


def outline_of(study: PreparedStudy, name: str) -> Tensor | None:
    """The human label ``[1 + N, D, H, W]`` of a scan that is outlined wholly."""
    return study.target(name).probabilities if name in study.dense() else None


def answerer_of(generalist: Generalist, mode: PromptMode) -> Answerer:
    """How to ask a generalist; one that takes no prompts is asked through its features."""
    if isinstance(unwrap(generalist), Promptable):
        return PromptableAnswerer(generalist)
    return WalkAnswerer(generalist, points=WITHOUT_MASK if mode == "points" else WITH_MASK)


def questions(steps: int, scans: int) -> int:
    """Questions about scans in a training, about."""
    options = CollaborationOptions()
    return Schedule.about(options.every, options.pace, steps, scans, first_paced=False)


RECIPE = Recipe(run_semisam_plus, ensembles=True, asks="all", questions=questions)
