"""Left atrium with two channels: is the training of `semisam_o1` no worse than with the first channel alone?

The second channel is made from the first: darker where that is brighter, with noise of its own, on a coarser grid whose
first axis points the other way. Needs the scans in ``../shared/data/la`` (or ``$SEMISAM_DATA/la``). An interrupted run
goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.processing import resample_to_output

import common
import propagation
import training
from common import DataSet, table

SCALE = 1.5
"""Edge of the second channel's voxels, in edges of the first one's."""
NOISE = 0.05
"""Of the second channel, standard deviation; its values lie in 0..1."""


class TwoChannels(DataSet):
    """A data set whose scans of ``train`` have two files each, and those of ``val``, which are uploaded, four axes."""

    def further(self, scan: str) -> Sequence[Path]:
        """The file of the second channel, for scans of the study."""
        other = self.image(scan.replace("_0000", "_0001"))
        return [other] if scan.endswith("_0000") else []


def second_channel(image: nibabel.Nifti1Image, seed: int) -> nibabel.Nifti1Image:
    """Another contrast of a scan on another grid.

    Args:
        image: ``[D, H, W]``.
        seed: of the noise.
    """
    values = np.asarray(image.dataobj, np.float32)
    low, high = np.percentile(values, (0.5, 99.5))
    dark = (1 - np.clip((values - low) / (high - low), 0, 1)) ** 2
    coarse = resample_to_output(nibabel.Nifti1Image(dark, image.affine), _edges(image) * SCALE, order=1, mode="nearest")
    noisy = np.asarray(coarse.dataobj) + np.random.default_rng(seed).normal(0, NOISE, coarse.shape)
    affine = coarse.affine.copy()
    affine[:3, 3] += (coarse.shape[0] - 1) * affine[:3, 0]
    affine[:3, 0] *= -1
    return nibabel.Nifti1Image((1000 * noisy[::-1]).astype(np.int16), affine)


def make(data: DataSet, folder: Path, train: Sequence[str], val: Sequence[str]) -> TwoChannels:
    """Write the scans with their second channel; what is there already stays."""
    made = TwoChannels(f"{data.name}_two", folder, data.labels)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, scan in enumerate([*train, *val]):
        name = f"{scan}_0000" if scan in train else scan
        if made.label(name).exists():
            continue
        image = nibabel.load(data.image(scan))
        other = second_channel(image, number)
        if scan in train:
            shutil.copyfile(data.image(scan), made.image(name))
            nibabel.save(other, made.further(name)[0])
        else:
            nibabel.save(_four_axes(image, other), made.image(name))
        shutil.copyfile(data.label(scan), made.label(name))
    split = {"train": [f"{scan}_0000" for scan in train], "val": list(val)}
    (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return made


def _four_axes(first: nibabel.Nifti1Image, second: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    on_first = nibabel.processing.resample_from_to(second, first, order=1, mode="nearest")
    both = np.stack([np.asarray(each.dataobj, np.float32) for each in (first, on_first)], axis=-1)
    return nibabel.Nifti1Image(both, first.affine)


def _edges(image: nibabel.Nifti1Image) -> np.ndarray:
    return np.asarray(image.header.get_zooms()[:3], float)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=12, help="unlabelled scans (default: 12)")
    parser.add_argument("--seeds", default="0,1", help="comma list (default: 0,1)")
    parser.add_argument("--val-scans", type=int, default=5, help="scans of val (default: 5)")
    parser.add_argument("--preset", default="quick", help="preset of the training (default: quick)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    common.end_on_sigterm()
    data = common.open_dataset("la", common.STRUCTURES["la"])
    split = data.split()
    train, val = split["train"][: options.scans + 1], split["val"][: options.val_scans]
    two = make(data, common.RESULTS / "la_two" / "data", train, val)
    rows: list[list[object]] = []
    means: dict[str, list[float]] = {"1": [], "2": []}
    for seed in (int(each) for each in options.seeds.split(",")):
        for channels, each, conf in (("1", data, []), ("2", two, ["channels=first,second"])):
            outcome = training.stage(each, _stage_options(each, options, seed, conf))
            dice = [statistics.fmean(map(propagation.scan_dice, outcome.val[m])) for m in training.MODELS]
            rows.append([f"seed {seed}, channels: {channels}", *dice, outcome.seconds / 60])
            means[channels].append(dice[1])
    print()
    print(table(["training", *(f"val: {text}" for text in training.MODELS.values()), "minutes"], rows))
    print()
    one, both = statistics.fmean(means["1"]), statistics.fmean(means["2"])
    targets = common.Targets()
    targets.expect(both >= one, f"the specialist of two channels is not worse on val: {one:.4f}, {both:.4f}")
    return targets.exit_code(options.check)


def _stage_options(data: DataSet, options: argparse.Namespace, seed: int, conf: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    base = [f"labels={','.join(data.labels)}", *conf]
    training.add_options(parser, preset=options.preset, conf=base, limit_minutes=180, ablation=False)
    found = parser.parse_args([])
    found.seed, found.scans, found.val_scans, found.fresh = seed, options.scans, options.val_scans, False
    return found


if __name__ == "__main__":
    sys.exit(main())
