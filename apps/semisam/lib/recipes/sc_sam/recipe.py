"""SC-SAM as an algorithm; the package says what deviates from the paper.

::

    round 0   every scan on the working grid, no pseudo-labels                       engine/round_zero.prepare_study
    round r   some of the steps of one training:
                  labelled and unlabelled slices                                     slices.SliceSource
                  P_UNet <- U-Net, Eq. 1; points, Eq. 2; P_SAM <- SAM, Eq. 3         lib/specialists/networks/sam/
                  minimise Eq. 7 = Eq. 4 + Eq. 5 with w(t) of Eq. 6                  cotraining.CoTraining.step
              pseudo-labels <- predict all scans                                     engine/labelling.py

Rounds are parts of one training, so that after each of them the study has newer pseudo-labels and a killed run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from lib.core.devices import torch_seeded
from lib.core.errors import UserError
from lib.generalists import unwrap
from lib.generalists.sam2d.adapter import MODELS
from lib.generalists.sam2d.networks import SamNetwork
from lib.generalists.slices import acquisition_view
from lib.recipes.engine.context import Context
from lib.recipes.engine.kept_training import TrainingNumber
from lib.recipes.engine.labelling import label_study
from lib.recipes.engine.prepared_study import PreparedStudy
from lib.recipes.engine.recipe import Recipe
from lib.recipes.engine.record import COTRAINING
from lib.recipes.engine.report import FinishedRound
from lib.recipes.engine.round_zero import prepare_study
from lib.recipes.engine.stages import follow, plan_of, release_generalist
from lib.recipes.engine.tensor_files import load_tensors, packed_whole, save_tensors
from lib.specialists.networks.sam.build import build_sam
from lib.specialists.spec import SpecialistSpec
from lib.training.sample import Sample

from .cotraining import CoTraining, CoTrainingPlan
from .slices import SliceSource

log = logging.getLogger("semisam.train")

SLICES = 4
"""Slices in a step for each window of the preset's batch, with a human label; as many without."""
WEIGHTLESS = "sam"
"""The network when there are no published weights."""


def run_sc_sam(run: Context, finished: FinishedRound | None) -> FinishedRound:
    """Run all rounds after ``finished`` (None: from the start), and return the last one."""
    run.study.spec = replace(run.study.spec, slice_axis=slice_axis(run.study.spec))
    if finished is None:
        finished = prepare_study(run)
    if finished.index >= run.budget.rounds:
        return finished
    kind, training = _begin(run)
    if finished.index:
        training.restore(_read_state(run.folder.round(finished.index) / COTRAINING))
    published = training.pair.unet if run.options.network == "unet2d" else training.pair
    if run.options.network != "unet2d":
        run.study.spec = replace(run.study.spec, network=kind)
    for index in range(finished.index + 1, run.budget.rounds + 1):
        part = run.folder.new_round(index, keep=COTRAINING)
        if run.ranks.once(partial(packed_whole, part / COTRAINING)):  # killed while it labelled the study
            training.restore(_read_state(part / COTRAINING))
            training.pair.eval()
            _count_as_done(run, index)
        else:
            _train(run, index, training)
            if run.ranks.first:
                save_tensors(part / COTRAINING, training.state())
        labels = label_study(run, index, lambda _: (published,))
        finished = run.end_round(index, labels, [published], notes={"sam": _about(kind)})
    return finished


def slice_axis(spec: SpecialistSpec) -> int:
    """What the slices lie across: the axis of 2D images that has one voxel, else the one with the largest voxels."""
    single = [axis for axis, n in enumerate(spec.roi_size) if n == 1]
    return single[0] if single else acquisition_view(spec.spacing).axis


class StudyScans:
    """A ``PreparedStudy`` as ``Scans``."""

    def __init__(self, study: PreparedStudy) -> None:
        self._study = study
        self.human = study.human
        self.unlabelled = study.unlabelled

    def sample(self, name: str) -> Sample:
        """A scan with its human label."""
        return self._study.sample(name)

    def image(self, name: str) -> Tensor:
        """A scan ``[inputs, D, H, W]``, with or without a label."""
        return self._study.prepared(name).image


def _begin(run: Context) -> tuple[str, CoTraining]:
    """The name of the SAM, and both networks before the first step."""
    kind, weights = _pretrained(run)
    release_generalist(run)
    if weights is None:
        log.warning(
            "No pretrained SAM: the generalist is %s, and sc_sam can start from %s only. It trains a small SAM from "
            "random weights instead, its image encoder included (frozen, it would see nothing useful), and both "
            "networks' pseudo-labels count little at first. Expect it to be no better than a second specialist.",
            run.asked[0].name,
            ", ".join(MODELS),
        )
    else:
        log.info("SAM starts from the weights of %s; its image encoder stays as it is and gets adapters.", kind)
    spec = run.study.spec
    with torch_seeded(TrainingNumber(0).seed(run.options.seed)):
        pair = build_sam(replace(spec, network=kind), weights)
    device = run.options.device
    return kind, CoTraining(pair.to(device), plan_for(run, kind), device, run.ranks)


def plan_for(run: Context, kind: str) -> CoTrainingPlan:
    """The plan of all rounds together."""
    budget = plan_of(run)
    blank = kind == WEIGHTLESS
    return CoTrainingPlan(
        steps=run.budget.rounds * budget.steps,
        batch=SLICES * budget.batch,
        unet_rate=budget.rate,
        sam_rate=1e-3 if blank else 5e-4,
        ramp_to_unet=blank,
        earned=not blank,
    )


def _train(run: Context, index: int, training: CoTraining) -> None:
    """The round's part of the training."""
    run.reporter.begin("training", index)
    spec = run.study.spec
    size = [1 if axis == spec.slice_axis else n for axis, n in enumerate(spec.roi_size)]
    generator = run.ranks.generator(TrainingNumber(index).seed(run.options.seed))
    source = SliceSource(StudyScans(run.study), spec.channels, spec.slice_axis, generator)
    plan = plan_of(run)
    training.run(source, size, plan.steps, generator, follow(run, TrainingNumber(index), plan))


def _count_as_done(run: Context, index: int) -> None:
    """The training of a round has ended before."""
    run.reporter.begin("training", index)
    run.reporter.skip("training", plan_of(run).steps, index * run.budget.epochs)
    for entry in run.history.read():
        if entry.round == index and "agreement" in entry.metrics:
            run.reporter.best(entry.metrics["agreement"])


def _pretrained(run: Context) -> tuple[str, Mapping[str, Tensor] | None]:
    """The network's name, and SAM's published weights when the server's generalist has them."""
    (generalist,) = run.asked
    if generalist.name not in MODELS:
        return WEIGHTLESS, None
    network = getattr(unwrap(generalist), "network", None)
    if not isinstance(network, SamNetwork):
        raise RuntimeError(f"the generalist {generalist.name} has no network to start from")
    return generalist.name, {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}


def _about(kind: str) -> str:
    """For the notes of a checkpoint."""
    if kind == WEIGHTLESS:
        return "random weights, trained as a whole"
    return f"weights of {kind}, frozen image encoder with adapters"


def _read_state(path: Path) -> dict[str, object]:
    try:
        return load_tensors(path)
    except Exception as error:
        # torch.load alone raises pickle, zip, runtime, EOF and key errors.
        raise UserError(
            f"The interrupted training cannot go on: {path.name} of its last round is damaged "
            f"({type(error).__name__}). Delete the folder {path.parents[2].name} among the runs and train again.",
            status=422,
        ) from error


def network_with(generalists: Sequence[str]) -> str | None:
    """SAM answers by default when it starts from published weights: it is then far ahead of its U-Net."""
    return "sam" if any(name in MODELS for name in generalists) else None


RECIPE = Recipe(
    run_sc_sam,
    networks=("unet2d", "sam"),
    regularisers=("supervised",),
    propagates=False,
    asks="one",
    network_with=network_with,
)
