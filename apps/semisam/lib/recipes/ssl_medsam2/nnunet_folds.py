"""Fully supervised trainings by nnU-Net, for recipes that train in folds."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from torch import Tensor

from lib.core.errors import UserError
from lib.core.files import check_space
from lib.core.frames import frame_of
from lib.core.json_files import read_json, write_json
from lib.core.resampling import resize
from lib.formats.label_files import read_label
from lib.nnunet import NnunetPlan, need_nnunet, plan_dataset, stock_trainer, train_fold, write_case, write_dataset
from lib.recipes.engine.context import Context
from lib.recipes.engine.each_scan import each_scan
from lib.recipes.engine.kept_training import TrainingNumber
from lib.recipes.engine.label_facts import PseudoLabelFacts
from lib.recipes.engine.labelling import label_by
from lib.recipes.engine.options import RecipeOptions
from lib.recipes.engine.stages import release_generalist
from lib.report.history import Entry
from lib.specialists.checkpoint import Specialist
from lib.specialists.predict import predict

from .folds import Fold, FoldSource, choose_folds

log = logging.getLogger("semisam.train")

_FOLDER = "nnunet"
_VOXEL_BYTES = 10
"""Scan and label as files and once more as nnU-Net keeps them, hardly compressed."""


def check_nnunet(options: RecipeOptions) -> None:
    """Raise UserError when nnU-Net is not installed, or a loss was chosen that it does not have."""
    need_nnunet()
    if options.regulariser != "supervised":
        raise UserError(
            f"regulariser: nnU-Net trains fully supervised, it cannot use {options.regulariser!r}. "
            "Choose auto or supervised, or another network."
        )


class NnunetBackEnd:
    """nnU-Net as a ``BackEnd``: hard labels, its own preprocessing, training and prediction.

    It sees the scans at their own resolution, whatever the spacing of our specialists is.

    Args:
        plan: how much a fold trains; None for the longest of nnU-Net's own trainers within the preset's epochs.
    """

    def __init__(self, plan: NnunetPlan | None = None) -> None:
        self._plan = plan

    def templates(self, run: Context) -> Sequence[str]:
        """Names of the scans it learns from; those of which only some slices are annotated are left out."""
        return run.study.dense()

    def train(self, run: Context, index: int, fold: Fold, folds: int) -> Specialist:
        """Write the scans, plan, and train nnU-Net on all but those of ``fold``."""
        run.reporter.begin("training", index)
        release_generalist(run)
        folder = run.folder.open_round(index) / _FOLDER
        _write_scans(run, index, folder, folds)
        device = run.options.device
        configuration = plan_dataset(folder, device)
        plan = self._plan or stock_trainer(run.budget.epochs)
        log.info(
            "nnU-Net trains %s with %s: %d epochs of %d steps", configuration, plan.trainer, plan.epochs, plan.steps
        )
        number = TrainingNumber(index, fold.number, folds)
        progress = _Progress(run, plan.epochs * plan.steps, number)
        seed = number.seed(run.options.seed)
        scheme, network = train_fold(
            folder, configuration, fold.number, plan, device=device, seed=seed, listener=progress.step
        )
        return Specialist(run.study.spec, (network,), nnunet=scheme)

    def label(
        self, run: Context, index: int, specialist_of: Callable[[str], Specialist]
    ) -> Mapping[str, PseudoLabelFacts]:
        """Predict every scan without a human label at its own resolution."""

        def one(name: str) -> tuple[Tensor, np.ndarray]:
            found = predict(specialist_of(name), run.study.read(name))
            return resize(found.probabilities, run.study.prepared(name).frame.shape), found.labels()

        return label_by(run, index, one)

    @staticmethod
    def tidy(part: Path) -> None:
        """Remove nnU-Net's copies of the scans from a round's folder; its log and plans stay."""
        folder = part / _FOLDER
        for name in ("raw", "preprocessed", "results"):
            for file in folder.glob(f"{name}/*/*.json"):
                shutil.copyfile(file, folder / file.name)
            for file in folder.glob(f"{name}/*/*/fold_*/training_log*.txt"):
                shutil.copyfile(file, folder / f"{file.parent.name}-{file.name}")
            shutil.rmtree(folder / name, ignore_errors=True)


class _Progress:
    """Tells nnU-Net's steps in the units of the preset, so that totals hold for all networks.

    Args:
        run: the run.
        steps: nnU-Net's steps of the training.
        number: which training of the run it is.
    """

    def __init__(self, run: Context, steps: int, number: TrainingNumber) -> None:
        self._run = run
        self._steps = steps
        self._number = number
        self._done = self._told = 0
        self._losses: list[float] = []
        run.history.forget(number.round, number.number)

    def step(self, loss: float) -> None:
        """One more step is done."""
        budget, reporter = self._run.budget, self._run.reporter
        self._done += 1
        self._losses.append(loss)
        while self._told < self._done * budget.epochs * budget.iterations // self._steps:
            self._told += 1
            epochs, rest = divmod(self._told, budget.iterations)
            if not rest:
                losses = {"loss": fmean(self._losses)} if self._losses else {}
                self._run.history.add(Entry(self._number.round, self._number.number, epochs, losses))
                self._losses.clear()
                reporter.finished_epochs(self._number.before * budget.epochs + epochs)
            reporter.advance("training", {"loss": loss}, force=not rest)


def _write_scans(run: Context, index: int, folder: Path, folds: int) -> None:
    """Write all scans with a label and the folds as nnU-Net wants them, unless that is done."""
    if read_json(folder / "written.json") is not None:
        return
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run has half done
    study, channels = run.study, run.study.spec.inputs
    voxels = channels * sum(
        math.prod(study.prepared(name).frame.source_shape) for name in (*study.dense(), *study.pseudo())
    )
    check_space(folder, _VOXEL_BYTES * voxels)
    earlier = run.folder.round(index - 1)

    def outlined(name: str) -> None:
        template = study.template(name)
        seen = template.scan.all_clipped[:channels]
        write_case(folder, study.file_name(name), seen, template.label, frame_of(template.scan))

    def labelled(name: str) -> None:
        scan = study.read(name)
        label = read_label(earlier / f"{study.file_name(name)}.nii.gz", scan, study.schema)
        write_case(folder, study.file_name(name), scan.all_clipped[:channels], label, frame_of(scan))

    each_scan(run, study.dense(), outlined)
    each_scan(run, list(study.pseudo()), labelled)
    splits = []
    for fold in choose_folds(study.unlabelled(), folds, run.options.seed):
        train = [study.file_name(n) for n in (*study.dense(), *FoldSource(study, fold).pseudo())]
        left_out = [study.file_name(n) for n in fold.held_out if n in study.pseudo()]
        splits.append((train, left_out or train[:1]))
    names = run.schema.names
    write_dataset(folder, names, len(study.dense()) + len(study.pseudo()), splits, channels)
    write_json(folder / "written.json", {"cases": [*study.dense(), *study.pseudo()]})
