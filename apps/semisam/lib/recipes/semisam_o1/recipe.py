"""SemiSAM-O1 as an algorithm; the package says what deviates from the paper.

::

    stage 1   pseudo-labels <- propagate the human labels by frozen features         engine/round_zero.py
    stage 2   until the labels settle, at most as many rounds as the preset has:     earlier_rounds.settled
                  train from scratch on human labels and pseudo-labels:
                      0.5 (CE + Dice) + w 0.5 (CE + Dice') + lambda L_unsup          lib/training/objectives.py
                  predict all scans with voxel-wise uncertainty                      rounds.predict_study
                  correct uncertain voxels from similar confident places             refinement.refine
                  pseudo-labels <- 2/3 corrected + 1/3 of the round before           earlier_rounds.with_earlier
              publish the teachers of all rounds                                     earlier_rounds.with_earlier_members
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
