"""SemiSAM-O1: from one outlined scan to a specialist.

"SemiSAM-O1", https://arxiv.org/abs/2604.24109. Round 0 carries the human labels over to the whole study with frozen
features. Each further round trains the specialist from scratch on human labels and current pseudo-labels, lets it
predict all scans with voxel-wise uncertainty, and corrects the unsure voxels from the most similar confident places of
the whole study in the generalist's feature space.
"""

from __future__ import annotations

from ..specialists.regularisers import MeanTeacher
from .base import FinishedRound
from .context import Context
from .refinement import RefinementOptions
from .stages import predict_study, propagate_study, refine_study, train_round
from .training import TrainingPlan

_TEACHER_MEMORY = 0.07
"""The teacher averages over at most this share of the steps: in a short training a long memory would lag behind."""


def plan_of(run: Context) -> TrainingPlan:
    """How each round trains."""
    amount = run.amount
    return TrainingPlan(epochs=amount.epochs, iterations=amount.iterations, batch=amount.batch)


def run_semisam_o1(run: Context, finished: FinishedRound | None) -> FinishedRound:
    """Run all rounds after ``finished`` (None: from the propagation on), and return the last one."""
    refinement = RefinementOptions()
    plan = plan_of(run)
    if finished is None:
        finished = propagate_study(run)
    for index in range(finished.index + 1, run.amount.rounds + 1):
        run.folder.begin_round(index)
        teacher = MeanTeacher(most=max(0.5, min(0.99, 1.0 - 1.0 / (_TEACHER_MEMORY * plan.steps))))
        trained = train_round(run, index, teacher, plan)
        predict_study(run, index, trained.members, refinement)
        labels = refine_study(run, index, refinement)
        finished = run.end_round(index, labels, trained.members)
    return finished
