"""A small structure in a large scan: what the closer look and the finer working grid are worth.

The scan is the CHAOS CT, an abdomen of 372 x 372 x 156 mm; each patient is a smooth deformation of it by 18 mm at most,
with other noise. The structure is a kidney, found by its intensity, which is all the truth there is: the figures
compare ways to work, and do not say how well a kidney is outlined in a hospital.

``propagate``: one outline carried over, with a closer look at the part of the scan where the structure is, and without.
``train``: preset ``quick`` on that part of the scans, and on the whole of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import common
from common import ROOT, Store, Targets, heading, table

os.environ.update(common.limit_threads(int(os.environ.get("OMP_NUM_THREADS", common.THREADS))))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path[:0] = [str(ROOT / "tests" / "support")]

STAGES = ("propagate", "train")
NAME = "kidney"
UNLABELLED, UNSEEN = 8, 3
_MILLIMETRES = 18.0
_LEAST_ML, _MOST_HU = 20.0, 250.0
"""Bright structures outside the liver that are as large as a kidney and not as bright as bone."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_stage_options(parser, STAGES)
    options = parser.parse_args()
    stages = common.chosen(options.stages, STAGES, "--stages")
    work = common.RESULTS / "small-structures"
    store = Store(work / "results.json", fresh=options.fresh)
    names = make_patients(work / "scans")
    targets = Targets()
    if "propagate" in stages:
        heading("One outline of a kidney carried over", {"patients": UNSEEN})
        for look in ("closer", "whole scan"):
            store.data[look] = propagate(work / "scans", names, closer=look == "closer")
            store.save()
        shown = {look: store.data[look] for look in ("closer", "whole scan")}
        rows = [
            [look, found["dice"], min(found["all"]), found["voxel_mm"], found["seconds"]]
            for look, found in shown.items()
        ]
        print(table(["look", "Dice", "worst", "voxel mm", "CPU s"], rows))
        gain = shown["closer"]["dice"] - shown["whole scan"]["dice"]
        targets.expect(gain > 0.02, f"the closer look gains more than 0.02 Dice: {gain:+.4f}")
    if "train" in stages:
        heading("Preset quick from one outline", {"without a label": UNLABELLED, "unseen": UNSEEN})
        for grid in ("part", "whole scan"):
            key = f"grid of {grid}"
            if key not in store.data:
                store.data[key] = train(work, names, part=grid == "part")
                store.save()
        shown = {key: store.data[key] for key in ("grid of part", "grid of whole scan")}
        rows = [
            [key, f["voxel_mm"], f["rounds"]["0"], f["rounds"]["1"], f["unseen"], f["minutes"]]
            for key, f in shown.items()
        ]
        print(table(["working grid", "voxel mm", "propagated", "pseudo-labels", "unseen", "minutes"], rows))
        gain = shown["grid of part"]["unseen"] - shown["grid of whole scan"]["unseen"]
        targets.expect(gain > 0.05, f"the part gains more than 0.05 Dice: {gain:+.4f}")
    return targets.exit_code(options.check)


def make_patients(folder: Path) -> list[str]:
    """Write scans and their truth; returns the names, the outlined patient first.

    Raises:
        SystemExit: (0) when the CT is not there.
    """
    import nibabel

    from dicomfiles import Labelled, abdomen

    names = [f"patient_{n:02d}" for n in range(1 + UNLABELLED + UNSEEN)]
    if all((folder / f"{name}-label.nii.gz").is_file() for name in names):
        return names
    scan, real = abdomen(step=2)
    if not real:
        print("Skipped: the CHAOS CT is not there. Set SEMISAM_DATA to the folder that holds chaos_ct_dicom/.")
        raise SystemExit(0)
    folder.mkdir(parents=True, exist_ok=True)
    outlined = Labelled(scan.array, kidney_of(scan.array, scan.label, scan.affine), scan.affine)
    for number, name in enumerate(names):
        patient = outlined.deformed(number, millimetres=_MILLIMETRES) if number else outlined
        nibabel.save(nibabel.Nifti1Image(patient.array, patient.affine), folder / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(patient.label, patient.affine), folder / f"{name}-label.nii.gz")
    return names


def kidney_of(array: np.ndarray, liver: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A kidney ``[D, H, W]`` uint8: of all that is brighter than the liver, the largest of a kidney's brightness."""
    from scipy.ndimage import binary_opening, gaussian_filter, label

    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    smooth = gaussian_filter(array.astype(np.float32), 2.0 / spacing)
    bright = (smooth > array[liver > 0].mean() + 45) & (smooth < 350) & (liver == 0)
    parts, count = label(binary_opening(bright, iterations=2))
    millilitres = np.bincount(parts.ravel(), minlength=count + 1) * float(spacing.prod()) / 1000
    fitting = [n for n in range(1, count + 1) if millilitres[n] > _LEAST_ML and array[parts == n].mean() < _MOST_HU]
    return (parts == max(fitting, key=lambda n: float(millilitres[n]))).astype(np.uint8)


def propagate(folder: Path, names: list[str], *, closer: bool) -> dict[str, Any]:
    """Dice, voxel size and seconds of the propagation to the unseen patients."""
    from lib.formats.volumes import read_volume
    from lib.generalists.mind import Mind
    from lib.propagation import Template
    from lib.propagation.registration import RegistrationPropagator

    scan = read_volume(folder / f"{names[0]}.nii.gz")
    template = Template(names[0], scan, truth_of(folder, names[0]))
    matcher = RegistrationPropagator(refine=closer, device="cpu")
    dice, voxels, seconds = [], [], []
    for name in names[-UNSEEN:]:
        other = read_volume(folder / f"{name}.nii.gz")
        begun = time.process_time()
        soft = matcher.propagate(template, other, 2, Mind())
        seconds.append(time.process_time() - begun)
        dice.append(compared(soft.labels(), truth_of(folder, name)))
        voxels.append(max(soft.frame.spacing))
    means = [statistics.fmean(values) for values in (dice, voxels, seconds)]
    return dict(zip(("dice", "voxel_mm", "seconds"), means, strict=True)) | {"all": dice}


def train(work: Path, names: list[str], *, part: bool) -> dict[str, Any]:
    """Dice of pseudo-labels by round and of the specialist on the unseen patients."""
    from lib.core.labels import LabelSchema
    from lib.formats.label_files import read_label
    from lib.formats.volumes import read_volume
    from lib.generalists.mind import Mind
    from lib.propagation import Template
    from lib.recipes import Case, RecipeOptions, RecipeSettings, RunRequest, SilentObserver, run_recipe
    from lib.specialists import load_specialist
    from lib.specialists import spec as module
    from lib.specialists.predict_in_roi import predict_in_roi
    from propagated_once import KeptPropagator

    folder, schema = work / "scans", LabelSchema((NAME,))
    cases = [Case(name, folder / f"{name}.nii.gz") for name in names[1:-UNSEEN]]
    cases.append(Case(names[0], folder / f"{names[0]}.nii.gz", folder / f"{names[0]}-label.nii.gz"))
    begun = time.monotonic()
    with _constant(module, "_MOST_OF_SCAN", None if part else 0.0):
        result = run_recipe(
            RunRequest(
                cases,
                schema,
                RecipeOptions(preset="quick"),
                RecipeSettings(),
                work / ("run-part" if part else "run-whole"),
            ),
            generalist=Mind(),
            propagator=KeptPropagator(work / "propagated"),
            observer=SilentObserver(),
        )
    minutes = (time.monotonic() - begun) / 60
    rounds = {}
    for index in ("0", "1"):
        dice = []
        for file in sorted((result.folder / "rounds" / index).glob("*.nii.gz")):
            name = file.name.split("-", 1)[1].removesuffix(".nii.gz")
            label = read_label(file, read_volume(folder / f"{name}.nii.gz"), schema, may_be_empty=True)
            dice.append(compared(label, truth_of(folder, name)))
        rounds[index] = statistics.fmean(dice)
    specialist = load_specialist(result.checkpoint, "cpu")
    scan = read_volume(folder / f"{names[0]}.nii.gz")
    template = Template(names[0], scan, truth_of(folder, names[0]))
    unseen = []
    for name in names[-UNSEEN:]:
        found = predict_in_roi(specialist, read_volume(folder / f"{name}.nii.gz"), lambda: template)
        unseen.append(compared(found.labels(), truth_of(folder, name)))
    voxel = max(specialist.spec.spacing)
    return {"voxel_mm": voxel, "rounds": rounds, "unseen": statistics.fmean(unseen), "all": unseen, "minutes": minutes}


def truth_of(folder: Path, name: str) -> np.ndarray:
    """The true label of a patient, ``[D, H, W]`` uint8."""
    from lib.core.labels import LabelSchema
    from lib.formats.label_files import read_label
    from lib.formats.volumes import read_volume

    return read_label(folder / f"{name}-label.nii.gz", read_volume(folder / f"{name}.nii.gz"), LabelSchema((NAME,)))


def compared(label: np.ndarray, truth: np.ndarray) -> float:
    """Dice of the structure."""
    from lib.core.metrics import overlap

    return float(overlap(np.asarray(label) == 1, truth == 1)[0])


@contextmanager
def _constant(module: ModuleType, name: str, value: float | None) -> Iterator[None]:
    """Let a module's constant be another one meanwhile; None leaves it."""
    kept = getattr(module, name)
    setattr(module, name, kept if value is None else value)
    try:
        yield
    finally:
        setattr(module, name, kept)


if __name__ == "__main__":
    sys.exit(main())
