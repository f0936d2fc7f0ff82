"""FM-ABS as an algorithm; the package says what deviates from the paper.

::

    round 0   every scan on the working grid, no pseudo-labels                       engine/round_zero.prepare_study
    round r   minimise Eq. 1 with Eq. 3:
                  L_sup^cross(annotated planes)                                      plane_labels.PartialObjective
                  + lambda_sam(t) L_sup^SAM(all scans), Eq. 2                        assistant.SliceAssistant.loss
                  + lambda_c(t) L_c(all scans)                                       regularisers/perturbed_teacher.py
              where, for a scan that is drawn,
                  P^t <- the mean teacher's prediction
                  boxes and points <- the slices of three views of P^t               prompts.prompts_of
                  Y_c, Y_a, Y_s <- the frozen generalist's answers                   answerers.py
                  Y_f <- majority vote (MV) or unanimous agreement (UA)              fusion.fuse
              pseudo-labels <- predict all scans                                     engine/labelling.py

Eq. 2 itself is ``lib.specialists.losses.noise_tolerant_dice``. Active selection (LC, HE, HER) is ``lib/selection``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from torch import Tensor, nn

from lib.recipes.engine.context import Context
from lib.recipes.engine.each_scan import stored_view
from lib.recipes.engine.kept_training import KEPT_TRAININGS, TrainingNumber
from lib.recipes.engine.labelling import label_study
from lib.recipes.engine.recipe import Recipe
from lib.recipes.engine.report import FinishedRound
from lib.recipes.engine.round_zero import prepare_study
from lib.recipes.engine.stages import TrainingParts, plan_of, train_round
from lib.specialists.regularisers import teacher_memory
from lib.specialists.regularisers.perturbed_teacher import PerturbedTeacher
from lib.training.question_schedule import Schedule

from .answerers import FOUNDATION_PACE, answerer_of
from .assistant import SliceAssistant, SliceOptions
from .fusion import Fusion
from .plane_labels import PartialObjective, WholeStudy


def run_fm_abs(run: Context, finished: FinishedRound | None) -> FinishedRound:
    """Run all rounds after ``finished`` (None: from the start), and return the last one."""
    if finished is None:
        finished = prepare_study(run)
    plan = replace(plan_of(run), objective=PartialObjective())
    assistant = assistant_of(run, SliceOptions(fusion=cast("Fusion", run.options.fusion)))
    for index in range(finished.index + 1, run.budget.rounds + 1):
        run.folder.new_round(index, keep=KEPT_TRAININGS)
        teacher = PerturbedTeacher(most=teacher_memory(plan.steps))
        parts = TrainingParts(WholeStudy(run.study), assistant, teacher)
        trained = train_round(run, TrainingNumber(index), plan, parts)
        labels = label_study(run, index, partial(_same, trained.members))
        finished = run.end_round(index, labels, trained.members)
    return finished


def assistant_of(run: Context, options: SliceOptions) -> SliceAssistant:
    """The generalist that the run asks, in three views."""

    def known(name: str) -> Tensor | None:
        label = None if name in run.study.human() else run.study.current(name)
        return None if label is None else label.probabilities

    answerer, view = answerer_of(run.asked[0]), partial(stored_view, run)
    return SliceAssistant(answerer, view, known, run.schema.channels, options, run.reporter.asked)


def _same(members: Sequence[nn.Module], name: str) -> Sequence[nn.Module]:
    """The networks for every scan."""
    return members


def questions(steps: int, scans: int) -> int:
    """Questions about scans in a training by a foundation model, about; a graph cut takes less than two steps."""
    options = SliceOptions()
    late = round((1.0 - options.warm_up) * steps)
    return Schedule.about(options.every / (1.0 - options.warm_up), FOUNDATION_PACE, late, scans, first_paced=True)


# Its mean teacher is one of its own, ``PerturbedTeacher``.
RECIPE = Recipe(run_fm_abs, regularisers=("mean_teacher",), propagates=False, asks="one", questions=questions)
