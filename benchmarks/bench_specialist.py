"""What a specialist reaches with every scan outlined: ours, its variants and nnU-Net in the same minutes.

    python benchmarks/bench_specialist.py --data hippocampus --minutes 8 --seeds 0,1
    python benchmarks/bench_specialist.py --data hippocampus --minutes 2 --choose --change "plan.rate=0.008"
    python benchmarks/bench_specialist.py --data hippocampus --minutes 8 --peer

Minutes are of the processor, one thread: of the steps of the training, with the drawing of its windows. How many steps
they allow is measured first. Held out are the scans of ``val``, or every third one by name where a study has no
``split.json``. ``--choose`` leaves those alone: it holds out a part of the others instead, to choose by.

Each training is kept; an interrupted benchmark goes on with the next one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import common
from common import Store, heading, table

os.environ.update(common.limit_threads(1))

from studies import STUDIES, Study

if TYPE_CHECKING:
    import numpy as np

    from lib.specialists import SpecialistSpec
    from lib.training.loop import TrainingPlan
    from lib.training.sample import Sample

ITERATIONS = 20
"""Steps of an epoch."""
LOOKED_AT = 16
"""Scans by which the grid is chosen."""
OUTLINES = 3
"""Those of them by which it is seen whether it is fine enough for the structures."""
CHOSEN_BY = 20
"""Scans that ``--choose`` holds out at most, and at most a third."""
PEER_EPOCHS = 20
PARTS = ("spec", "plan", "augmentation")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(STUDIES), default="hippocampus", help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="processor minutes of a training (default: 8)")
    parser.add_argument("--seeds", default="0,1", help="comma list (default: 0,1)")
    parser.add_argument("--preset", default="standard", help="widths, grid, window, batch (default: standard)")
    parser.add_argument("--change", nargs="*", default=[], help="PART.FIELD=VALUE; parts: " + ", ".join(PARTS))
    parser.add_argument("--regulariser", default="supervised", help="(default: supervised)")
    parser.add_argument("--choose", action="store_true", help="hold out a part of the outlined scans instead")
    parser.add_argument("--peer", action="store_true", help="train nnU-Net instead, for as long")
    parser.add_argument("--fresh", action="store_true", help="forget earlier trainings")
    options = parser.parse_args()
    study = STUDIES[options.data]
    if not (study.folder / "images").is_dir():
        print(f"Skipped: the {study.name} scans are not there ({study.folder}).")
        return 0

    import torch

    from lib.core.allocator import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()  # as every job of the server does
    fitted, held = split(study, choose=options.choose)
    store = Store(common.RESULTS / study.name / "specialist.json", fresh=options.fresh)
    how = "nnU-Net" if options.peer else " ".join([options.preset, options.regulariser, *sorted(options.change)])
    facts = {"outlined": len(fitted), "held out": len(held), "minutes": options.minutes, "how": how}
    heading(f"Specialist of {study.name}", facts)
    rows = []
    for seed in [int(text) for text in options.seeds.split(",")]:
        key = f"{common.fingerprint([common.APP / 'lib'])} {how} {options.minutes} {options.choose} {seed}"
        if key not in store.data:
            trained = train_peer if options.peer else train_ours
            store.data[key] = trained(study, fitted, held, options, seed)
            store.save()
        found = store.data[key]
        rows.append([seed, found["steps"], found["minutes"], found["dice"], *found["structures"], found["worst"]])
        print(json.dumps({"how": how, "seed": seed, **found}), flush=True)
    names = [f"structure {n}" for n in range(1, len(study.values) + 1)]
    print(table(["seed", "steps", "minutes", "Dice", *names, "worst scan"], rows))
    print(f"\nmean over seeds: {statistics.fmean(float(row[3]) for row in rows):.4f}")
    return 0


def split(study: Study, *, choose: bool) -> tuple[list[str], list[str]]:
    """Scans to train on, and scans to score."""
    names = study.names()
    file = study.folder / "split.json"
    if file.is_file():
        held = list(json.loads(file.read_text(encoding="utf-8"))["val"])
    else:
        held = sorted(names)[1::3]
        held = [name for name in held if name != names[0]]
    fitted = [name for name in names if name not in held]
    if choose:
        count = min(CHOSEN_BY, len(fitted) // 3)
        fitted, held = fitted[:-count], fitted[-count:]
    return fitted, held


@dataclass(eq=False)
class Outlined:
    """Scans with their truth on a specialist's grid; a ``SampleSource``.

    Args:
        study: the scans.
        spec: the grid.
        names: of the scans that are drawn.
    """

    study: Study
    spec: SpecialistSpec
    names: Sequence[str]
    _kept: dict[str, Sample] = field(default_factory=dict)

    def human(self) -> Sequence[str]:
        return self.names

    def pseudo(self) -> Sequence[str]:
        return []

    def sample(self, name: str) -> Sample:
        if name not in self._kept:
            import torch

            from lib.core.frames import frame_of
            from lib.specialists import prepare, roi_of
            from lib.training.sample import Sample

            scan, label = self.study.read(name)
            whole = frame_of(scan)
            part = roi_of(whole, torch.from_numpy(whole.crop(label) > 0), whole, self.spec)
            frame, image = prepare(scan, self.spec, part)
            target = frame.one_hot(label, self.spec.channels).half()
            self._kept[name] = Sample(image.half(), target, torch.ones(1, *target.shape[1:]).half())
        return self._kept[name]


def chosen_spec(study: Study, names: Sequence[str], options: argparse.Namespace) -> SpecialistSpec:
    """The network and the grid that a preset's training chooses, see ``lib.recipes.engine.grid``."""
    import torch

    from lib.core.frames import frame_of
    from lib.recipes import PRESETS
    from lib.specialists import SpecialistSpec, choose_roi, fitting_widths, region_of_interest
    from lib.specialists.detail import Outline, spacing_for, volume_weights

    preset = PRESETS[options.preset]
    frames, boxes, outlines = [], [], []
    for name in names[:LOOKED_AT]:
        scan, label = study.read(name)
        frames.append(frame_of(scan))
        boxes.append(frames[-1].around(torch.from_numpy(frames[-1].crop(label) > 0), 0.0).extent)
        outlines.append(Outline.of(frames[-1], label))
    extents, flat = [frame.extent for frame in frames], frames[0].flat
    part = None if flat else region_of_interest(extents, boxes)
    used = extents if part is None else [part]
    seen = [outline for outline in outlines if outline is not None][:OUTLINES]
    spacing = spacing_for(seen, used, [frame.spacing for frame in frames], preset.scan_voxels)
    roi = choose_roi(used, spacing, preset.roi_voxels, flat=flat)
    network = "unet2d" if flat else "unet3d"
    labels = tuple(f"structure {n}" for n in range(1, len(study.values) + 1))
    spec = SpecialistSpec(labels, preset.widths, spacing, roi, network, flat=flat, part=part)
    spec = replace(spec, **changes(options.change, "spec", spec))
    weights = spec.volume_weights or volume_weights(seen, spec.spacing, spec.channels)
    return replace(spec, widths=fitting_widths(spec.widths, spec.roi_size, spec.network), volume_weights=weights)


def changes(texts: Sequence[str], part: str, example: object) -> dict[str, Any]:
    """Fields of one part that are to be other than they come.

    Args:
        texts: ``PART.FIELD=VALUE``; values of a list are separated by commas.
        part: whose.
        example: the part as it comes; its values say of which type a field is.
    """
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        of, _, key = name.partition(".")
        if of not in PARTS or not key or not value:
            raise SystemExit(f"--change: {text} is not PART.FIELD=VALUE with a part of {', '.join(PARTS)}")
        if of == part:
            kind = type(getattr(example, key))
            if kind in (tuple, type(None)):
                found[key] = tuple(json.loads(f"[{value}]"))
            else:
                found[key] = kind(json.loads(value) if kind is bool else value)
    return found


def chosen_plan(steps: int, options: argparse.Namespace) -> TrainingPlan:
    """How the training goes, for about so many steps."""
    from lib.recipes import PRESETS
    from lib.training.loop import TrainingPlan

    plan = TrainingPlan(max(1, round(steps / ITERATIONS)), ITERATIONS, PRESETS[options.preset].batch)
    augmentation = replace(plan.augmentation, **changes(options.change, "augmentation", plan.augmentation))
    return replace(plan, augmentation=augmentation, **changes(options.change, "plan", plan))


def train_ours(
    study: Study, fitted: Sequence[str], held: Sequence[str], options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train one of ours, and score the scans that are held out."""
    from lib.propagation import Template
    from lib.specialists import Specialist
    from lib.specialists.predict_in_roi import predict_in_roi
    from lib.specialists.regularisers import build_regulariser
    from lib.training.loop import Trained, Trainer

    spec = chosen_spec(study, fitted, options)
    source = Outlined(study, spec, fitted)
    for name in fitted:
        source.sample(name)  # what is read once is no part of a step

    def trained(steps: int) -> tuple[Trained, int, float]:
        plan = chosen_plan(steps, options)
        regulariser = build_regulariser(options.regulariser, plan.steps)
        begun = time.process_time()
        result = Trainer(spec, source, regulariser, plan).train(seed, lambda *_: None)
        return result, plan.steps, time.process_time() - begun

    trained(1)  # the first steps are slower
    _, few, seconds = trained(1)
    result, steps, spent = trained(max(ITERATIONS, round(options.minutes * 60 / (seconds / few))))
    specialist = Specialist(spec, tuple(result.members))
    template = Template(fitted[0], *study.read(fitted[0]))
    scored, seconds_each = {}, []
    for name in held:
        scan = study.read(name)[0]
        begun = time.process_time()
        found = predict_in_roi(specialist, scan, lambda: template).labels()
        seconds_each.append(time.process_time() - begun)
        scored[name] = dice_of(study, name, found)
    facts = {"roi": spec.roi_size, "spacing": spec.spacing, "prediction": round(statistics.median(seconds_each), 2)}
    return summary(scored, steps, spent) | facts


def train_peer(
    study: Study, fitted: Sequence[str], held: Sequence[str], options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train nnU-Net by its own trainer of few epochs, made as long as the minutes allow."""
    from lib.core.frames import frame_of
    from lib.nnunet import NnunetPlan, need_nnunet, plan_dataset, predict_scan, train_fold, write_case, write_dataset

    need_nnunet()
    folder = common.RESULTS / study.name / "specialist-nnunet"
    shutil.rmtree(folder, ignore_errors=True)
    for name in fitted:
        scan, label = study.read(name)
        write_case(folder, name, (scan.array,), label, frame_of(scan))
    names = [f"structure_{n}" for n in range(1, len(study.values) + 1)]
    write_dataset(folder, names, len(fitted), [(list(fitted), list(fitted[:1]))])
    configuration = plan_dataset(folder, "cpu")
    ends: list[float] = []

    def train(plan: NnunetPlan) -> Any:
        ends.clear()
        ends.append(time.process_time())
        watch = lambda loss: ends.append(time.process_time())  # noqa: E731
        return train_fold(folder, configuration, 0, plan, device="cpu", seed=seed, listener=watch)

    train(NnunetPlan("nnUNetTrainer_1epoch", 1, 3))
    a_step = ends[-1] - ends[-2]
    steps = max(1, round(options.minutes * 60 / a_step / PEER_EPOCHS))
    scheme, network = train(NnunetPlan(f"nnUNetTrainer_{PEER_EPOCHS}epochs", PEER_EPOCHS, steps))
    spent = ends[-1] - ends[0]
    scored = {}
    for name in held:
        frame, probabilities = predict_scan(scheme, [network], study.read(name)[0])
        scored[name] = dice_of(study, name, frame.labels_back(probabilities))
    chosen = json.loads(str(scheme.as_plain()["plans"]))["configurations"][configuration]
    shutil.rmtree(folder)
    facts = {"patch_size": chosen["patch_size"], "batch_size": chosen["batch_size"]}
    return summary(scored, steps * PEER_EPOCHS, spent) | facts


def dice_of(study: Study, name: str, found: np.ndarray) -> list[float]:
    """Dice of each structure on the scan's own grid; 1 where neither has any."""
    from lib.core.metrics import overlap

    truth = study.read(name)[1]
    return [overlap(found == n, truth == n)[0] for n in range(1, len(study.values) + 1)]


def summary(scored: dict[str, list[float]], steps: int, seconds: float) -> dict[str, Any]:
    """Means over the scans, and the worst of them."""
    means = [statistics.fmean(column) for column in zip(*scored.values(), strict=True)]
    each = [statistics.fmean(row) for row in scored.values()]
    return {
        "dice": round(statistics.fmean(means), 4),
        "structures": [round(value, 4) for value in means],
        "worst": round(min(each), 4),
        "steps": steps,
        "minutes": round(seconds / 60, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
