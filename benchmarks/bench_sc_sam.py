"""SC-SAM on colonoscopy frames: U-Net alone, SAM alone, co-trained, and co-trained without the ramp-up.

Needs the frames in ``../shared/data/polyp_cvc`` (or ``$SEMISAM_DATA/polyp_cvc``); ends with a message and exit code 0
without them. Sequences are held out as a whole, as frames of one sequence show the same polyp; of the training
sequences every tenth frame is labelled. All trainings have the same seed, steps, slices a step and learning rates.

By default SAM has random weights and is trained as a whole (``lib.specialists.networks.sam.build.small``): this
measures the co-training, not what SAM's pretraining is worth. ``--weights mobile_sam`` starts from published weights
(``~/.cache/semisam/weights`` or ``$SEMISAM_WEIGHTS_CACHE``); the recipe's training is then ``earned``. Finished
trainings are kept and not repeated; ``--fresh`` forgets them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import common
import published_weights
from lib.core.frames import Frame
from lib.core.metrics import overlap
from lib.formats.volumes import read_volume
from lib.generalists.sam2d.adapter import MODELS
from lib.recipes.sc_sam.cotraining import CoTraining, CoTrainingPlan, segmentation_loss
from lib.recipes.sc_sam.slices import SliceSource
from lib.specialists.networks import SpecialistNetwork
from lib.specialists.networks.sam.build import SamSpecialist, build_sam
from lib.specialists.networks.sam.point_prompts import NONE, Points
from lib.specialists.predict import predict_prepared
from lib.specialists.prepare import prepare
from lib.specialists.ramps import linear_ramp, poly_decay
from lib.specialists.spec import SpecialistSpec
from lib.training.sample import Sample
from lib.training.sampling import TwoStreams, WindowOptions

FIRST_HELD_OUT = 16
"""Sequences from this number on are held out: 110 of 426 frames."""
EVERY = 10
"""One frame in so many of the training sequences is labelled."""
EDGE = 256
"""Pixels of a frame's side."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame.

    Args:
        frame: where the working grid lies in it.
        image: ``[3, size, size, 1]``.
        truth: ``[W, H, 1]`` 0/1 in full resolution.
    """

    frame: Frame
    image: Tensor
    truth: np.ndarray


class Frames:
    """The training frames, as ``slice_sampling.Scans``."""

    def __init__(self, pictures: dict[str, Picture], labelled: Sequence[str], unlabelled: Sequence[str]) -> None:
        self._pictures = pictures
        self._labelled = labelled
        self._unlabelled = unlabelled

    def human(self) -> Sequence[str]:
        return self._labelled

    def unlabelled(self) -> Sequence[str]:
        return self._unlabelled

    def sample(self, name: str) -> Sample:
        picture = self._pictures[name]
        target = picture.frame.one_hot(picture.truth, 2)
        return Sample(picture.image, target, torch.ones(1, *target.shape[1:]))

    def image(self, name: str) -> Tensor:
        return self._pictures[name].image


class Study:
    """All frames, and how they are split."""

    def __init__(self, folder: Path, size: int) -> None:
        self.spec = SpecialistSpec(
            ("polyp",),
            (16, 32, 64, 128),
            (EDGE / size, EDGE / size, 1.0),
            (size, size, 1),
            network="sam",
            inputs=3,
            flat=True,
        )
        sequence: dict[str, int] = json.loads((folder / "sequence.json").read_text(encoding="utf-8"))
        self.pictures = {name: self._read(folder, name) for name in sequence}
        self.test = [name for name, number in sequence.items() if number >= FIRST_HELD_OUT]
        train = [name for name, number in sequence.items() if number < FIRST_HELD_OUT]
        self.labelled = train[::EVERY]
        self.unlabelled = [name for name in train if name not in self.labelled]

    def frames(self, *, unlabelled: bool) -> Frames:
        """The training frames, with or without those that have no label."""
        return Frames(self.pictures, self.labelled, self.unlabelled if unlabelled else [])

    def score(self, network: SpecialistNetwork) -> dict[str, float]:
        """Mean Dice and IoU over the held-out frames."""
        both: list[tuple[float, float]] = []
        for name in self.test:
            picture = self.pictures[name]
            found = picture.frame.labels_back(predict_prepared([network], self.spec, picture.image))
            both.append(overlap(found == 1, picture.truth == 1))
        return {"dice": float(np.mean([d for d, _ in both])), "iou": float(np.mean([j for _, j in both]))}

    def _read(self, folder: Path, name: str) -> Picture:
        frame, image = prepare(read_volume(folder / "images" / f"{name}.jpg"), self.spec)
        with Image.open(folder / "masks" / f"{name}.jpg") as mask:
            truth = (np.asarray(mask.convert("L")).T[..., None] > 127).astype(np.uint8)
        return Picture(frame, image, truth)


class Promptless(SpecialistNetwork):
    """SAM without any points: only its learned boxes tell it what to look for."""

    layout = torch.channels_last

    def __init__(self, pair: SamSpecialist) -> None:
        super().__init__()
        self.sam = pair.sam
        self.view = pair.view
        self.width = pair.width

    def features(self, image: Tensor) -> Tensor:
        stack = self.view.stack(image).transpose(1, 2)
        slices = stack.flatten(0, 1)
        nowhere = torch.zeros(len(slices), self.width, 1, 2)
        logits = self.sam(slices, Points(nowhere, torch.full(nowhere.shape[:-1], NONE)))
        return self.view.volume(logits.unflatten(0, stack.shape[:2]).transpose(1, 2))

    def classify(self, features: Tensor) -> Tensor:
        return features


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_stage_options(parser, tuple(TRAININGS))
    parser.add_argument("--steps", type=int, default=300, help="of each training (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of the frames in pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="labelled frames a step, and as many others")
    parser.add_argument("--weights", default=NO_WEIGHTS, choices=[NO_WEIGHTS, *MODELS], help="what SAM starts from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    chosen = common.chosen(options.stages, tuple(TRAININGS), "--stages")
    folder = Path(os.environ.get("SEMISAM_DATA") or common.ROOT.parent / "shared" / "data") / "polyp_cvc"
    if not (folder / "sequence.json").is_file():
        print(f"Skipped: the frames are not there ({folder}). Set SEMISAM_DATA to the folder that holds polyp_cvc/.")
        return 0
    torch.set_num_threads(options.threads)
    common.end_on_sigterm()
    study = Study(folder, options.size)
    settings = f"steps {options.steps}, size {options.size}, batch {options.batch}, seed {options.seed}"
    if options.weights != NO_WEIGHTS:
        settings += f", {options.weights}"
    facts = {
        "labelled": len(study.labelled),
        "unlabelled": len(study.unlabelled),
        "held out": len(study.test),
        "settings": settings,
    }
    common.heading(f"SC-SAM on polyps, weights of SAM: {options.weights}", facts)
    store = common.Store(common.RESULTS / "sc_sam.json", fresh=options.fresh)
    results = store.data.setdefault(settings, {})
    for name in chosen:
        if name not in results:
            started = time.monotonic()
            found = TRAININGS[name](study, options)
            results[name] = {"rows": found, "seconds": time.monotonic() - started}
            store.save()
        for row, scores in results[name]["rows"].items():
            print(f"{row}: Dice {scores['dice']:.4f}, IoU {scores['iou']:.4f}", flush=True)
    rows = [
        (row, scores["dice"], scores["iou"], results[name]["seconds"])
        for name in TRAININGS
        if name in results
        for row, scores in results[name]["rows"].items()
    ]
    print()
    print(common.table(("training", "Dice", "IoU", "seconds"), rows))
    targets = common.Targets()
    scores = {row: dice_ for row, dice_, _, _ in rows}
    if {UNET, f"co-trained: {BOTH}"} <= set(scores):
        gain = scores[f"co-trained: {BOTH}"] - scores[UNET]
        targets.expect(gain >= 0, f"the co-trained U-Net is no worse than the U-Net alone: {gain:+.4f} Dice")
    return targets.exit_code(options.check)


NO_WEIGHTS = "none"
UNET = "U-Net alone"
BOTH = "ramp both ways (the recipe's without weights), U-Net"
Training = Callable[[Study, argparse.Namespace], "dict[str, dict[str, float]]"]


def plan_of(options: argparse.Namespace) -> CoTrainingPlan:
    """The same for all trainings."""
    return CoTrainingPlan(options.steps, options.batch, sam_rate=1e-3 if options.weights == NO_WEIGHTS else 5e-4)


def build(study: Study, options: argparse.Namespace) -> SamSpecialist:
    """Both networks with the seed's random weights; SAM with its published ones where there are some."""
    torch.manual_seed(options.seed)
    if options.weights == NO_WEIGHTS:
        return build_sam(study.spec)
    spec = replace(study.spec, network=options.weights)
    return build_sam(spec, published_weights.state_of(options.weights))


def co_trained(
    study: Study, options: argparse.Namespace, plan: CoTrainingPlan, unlabelled: bool, names: tuple[str, str]
) -> dict[str, dict[str, float]]:
    """Train both networks and score both under ``names``."""
    pair = build(study, options)
    training = CoTraining(pair, plan)
    generator = torch.Generator().manual_seed(options.seed)
    source = SliceSource(study.frames(unlabelled=unlabelled), 2, 2, generator)
    training.run(source, study.spec.roi_size, plan.steps, generator, _say)
    return {names[0]: study.score(pair.unet), names[1]: study.score(pair)}


def sam_alone(study: Study, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """SAM on the labelled frames, without a U-Net and so without points."""
    plan = plan_of(options)
    network = Promptless(build(study, options)).train()
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], weight_decay=plan.decay)
    generator = torch.Generator().manual_seed(options.seed)
    source = SliceSource(study.frames(unlabelled=False), 2, 2, generator)
    streams = TwoStreams(source, study.spec.roi_size, WindowOptions(plan.batch, 1.0, plan.weak), generator)
    for step in range(plan.steps):
        for group in optimiser.param_groups:
            rise = linear_ramp(step + 1, plan.warm_up * plan.steps)
            group["lr"] = plan.sam_rate * rise * poly_decay(step, plan.steps)
        batch = streams.draw()
        loss = segmentation_loss(network(batch.images), batch.targets, batch.weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimiser.step()
        _say(step + 1, {"loss": float(loss.detach())})
    return {"SAM alone (no points)": study.score(network)}


def _say(step: int, metrics: dict[str, float]) -> None:
    if step % 25 == 0:
        print(f"  step {step}: {', '.join(f'{k} {v:.3f}' for k, v in metrics.items())}", flush=True)


TRAININGS: dict[str, Training] = {
    "alone": lambda study, options: co_trained(
        study, options, plan_of(options), False, (UNET, "SAM on the labels, points of that U-Net")
    ),
    "sam": sam_alone,
    "co": lambda study, options: co_trained(
        study, options, plan_of(options), True, ("co-trained: paper, U-Net", "co-trained: paper, SAM")
    ),
    "earned": lambda study, options: co_trained(
        study,
        options,
        replace(plan_of(options), earned=True),
        True,
        ("co-trained: ramp-up and earned weights, U-Net", "co-trained: ramp-up and earned weights, SAM"),
    ),
    "no_ramp": lambda study, options: co_trained(
        study,
        options,
        replace(plan_of(options), ramp=0.0),
        True,
        ("co-trained: no ramp-up, U-Net", "co-trained: no ramp-up, SAM"),
    ),
    "both": lambda study, options: co_trained(
        study,
        options,
        replace(plan_of(options), ramp_to_unet=True),
        True,
        (f"co-trained: {BOTH}", f"co-trained: {BOTH.removesuffix('U-Net')}SAM"),
    ),
}


if __name__ == "__main__":
    sys.exit(main())
