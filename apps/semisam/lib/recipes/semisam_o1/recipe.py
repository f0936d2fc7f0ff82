"""SemiSAM-O1: from one outlined scan to a specialist.

"SemiSAM-O1", https://arxiv.org/abs/2604.24109. Round 0 carries the human labels over to the whole study with frozen
features. Each further round trains the specialist from scratch on human labels and current pseudo-labels, lets it
predict all scans with voxel-wise uncertainty, and corrects the unsure voxels from the most similar confident places of
the whole study in the generalist's feature space. The rounds end early when the labels hardly change any more.

No label but the outlined scans' is looked at, so a checkpoint cannot be chosen by its score: it is the teachers of all
rounds together, each an average over its training's last steps, with a learning rate that has fallen to zero.
"""

from __future__ import annotations

from lib.recipes.engine.context import Context
from lib.recipes.engine.kept_training import KEPT_TRAININGS
from lib.recipes.engine.recipe import Recipe
from lib.recipes.engine.report import FinishedRound
from lib.recipes.engine.round_zero import propagate_study
from lib.recipes.engine.stages import plan_of, train_networks

from .earlier_rounds import settled, with_earlier_members
from .refinement import RefinementOptions
from .rounds import predict_study, refine_study


def run_semisam_o1(run: Context, finished: FinishedRound | None) -> FinishedRound:
    """Run all rounds after ``finished`` (None: from the propagation on), and return the last one."""
    refinement = RefinementOptions()
    if finished is None:
        finished = propagate_study(run)
    while finished.index < run.budget.rounds and not settled(finished):
        index = finished.index + 1
        run.folder.new_round(index, keep=KEPT_TRAININGS)
        members = train_networks(run, index, plan_of(run))
        predict_study(run, index, members, refinement)
        labels = refine_study(run, index, refinement)
        finished = run.end_round(index, labels, with_earlier_members(run, index, members))
    return finished


RECIPE = Recipe(run_semisam_o1, ensembles=True, refines=True)
