"""FM-ABS: three outlined slices a scan, and a generalist that is asked about the rest slice by slice.

"FM-ABS: Promptable Foundation Model Drives Active Barely Supervised Learning for 3D Medical Image Segmentation", MICCAI
2024. A training minimises Eq. 1 and 3, ``L_sup^cross(labelled) + lambda_sam L_sup^SAM(all) + lambda_c L_c(all)``:
partial cross-entropy on the annotated planes, noise-tolerant Dice (Eq. 2) on what the generalist says in three views,
and consistency with a mean teacher, who also makes the prompts. In an active study, each training takes the labels that
are there; the selection strategies say which scan to outline next.

The paper trains once. Here a further round begins with questions about the round before's predictions, which the
first one cannot ask until its teacher has warmed up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from torch import Tensor, nn

from lib.recipes.engine.context import Context
from lib.recipes.engine.each_scan import stored_image
from lib.recipes.engine.kept_training import KEPT_TRAININGS, TrainingNumber
from lib.recipes.engine.labelling import label_study
from lib.recipes.engine.recipe import Recipe
from lib.recipes.engine.report import FinishedRound
from lib.recipes.engine.round_zero import prepare_study
from lib.recipes.engine.stages import TrainingParts, plan_of, train_round
from lib.specialists.regularisers import build_regulariser
from lib.specialists.regularisers.perturbed_teacher import PerturbedTeacher
from lib.specialists.regularisers.teacher import TeacherRegulariser
from lib.training.scan_view import ScanView

from .answerers import answerer_of
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
        parts = TrainingParts(WholeStudy(run.study), assistant, teacher_of(run, plan.steps))
        trained = train_round(run, TrainingNumber(index), plan, parts)
        labels = label_study(run, index, partial(_same, trained.members))
        finished = run.end_round(index, labels, trained.members)
    return finished


def teacher_of(run: Context, steps: int) -> PerturbedTeacher:
    """The paper's consistency, with the memory that other mean teachers have in so many steps."""
    usual = cast("TeacherRegulariser", build_regulariser(run.options.regulariser, steps))
    return PerturbedTeacher(most=usual.most)


def assistant_of(run: Context, options: SliceOptions) -> SliceAssistant:
    """The run's generalist, asked in three views."""

    def view(name: str) -> ScanView:
        return ScanView(stored_image(run, name), run.study.prepared(name).frame.spacing)

    def known(name: str) -> Tensor | None:
        label = None if name in run.study.human() else run.study.current(name)
        return None if label is None else label.probabilities

    return SliceAssistant(answerer_of(run.generalist), view, known, run.schema.channels, options)


def _same(members: Sequence[nn.Module], name: str) -> Sequence[nn.Module]:
    return members


RECIPE = Recipe(run_fm_abs, regularisers=("mean_teacher",), propagates=False)
