"""The same anatomy stored in other ways: what does the propagation lose?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import common
import methods
from common import DataSet, Store, Targets, heading, table

LIMIT = 0.03
"""Most mean Dice that a change of storage may cost."""

Stored = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Intensities, label map, affine."""


def turned(stored: Stored, axes: Sequence[int] = (2, 0, 1), flips: Sequence[int] = (0, 2)) -> Stored:
    """Axes permuted and flipped, the affine changed with them."""
    image, label, affine = stored
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, old in enumerate(axes):
        to_old[old, new] = -1 if new in flips else 1
        to_old[old, 3] = image.shape[old] - 1 if new in flips else 0
    moved = [np.ascontiguousarray(np.flip(a.transpose(axes), flips)) for a in (image, label)]
    return moved[0], moved[1], affine @ to_old


def resampled(stored: Stored, spacing: Sequence[float] = (1.25, 1.25, 2.5)) -> Stored:
    """Blocks of voxels averaged to (about) ``spacing`` mm; the majority of a block's voxels gives its label."""
    image, label, affine = stored
    own = np.sqrt((affine[:3, :3] ** 2).sum(0))
    factors = [max(1, round(float(wanted / have))) for wanted, have in zip(spacing, own, strict=True)]
    size = [n // f for n, f in zip(image.shape, factors, strict=True)]

    def blocks(array: np.ndarray) -> np.ndarray:
        cut = array[tuple(slice(n * f) for n, f in zip(size, factors, strict=True))].astype(np.float32)
        split = cut.reshape(size[0], factors[0], size[1], factors[1], size[2], factors[2])
        return np.asarray(split.mean(axis=(1, 3, 5)))

    shares = np.stack([blocks(label == value) for value in range(int(label.max()) + 1)])
    to_old = np.diag([*map(float, factors), 1.0])
    to_old[:3, 3] = [(f - 1) / 2 for f in factors]
    return blocks(image), shares.argmax(0).astype(np.uint8), affine @ to_old


def padded(stored: Stored, voxels: int = 20) -> Stored:
    """``voxels`` of the lowest value in front of each axis: the anatomy moves in the array, not in the world."""
    image, label, affine = stored
    to_old = np.eye(4)
    to_old[:3, 3] = -voxels
    widths = [(voxels, 0)] * 3
    return np.pad(image, widths, constant_values=image.min()), np.pad(label, widths), affine @ to_old


def rescaled(stored: Stored) -> Stored:
    """Intensities times 10 plus 500."""
    image, label, affine = stored
    return image * 10 + 500, label, affine


CHANGES: Mapping[str, Callable[[Stored], Stored]] = {
    "flipped and permuted": turned,
    "1.25 x 1.25 x 2.5 mm": resampled,
    "padded by 20 voxels": padded,
    "intensities x 10 + 500": rescaled,
    "all of them": lambda stored: turned(resampled(padded(rescaled(stored)))),
}


def centre(stored: Stored) -> np.ndarray:
    """Middle of the labelled voxels in mm."""
    _, label, affine = stored
    return np.asarray((affine @ [*np.argwhere(label > 0).mean(0), 1])[:3])


def stage(data: DataSet, scans: Sequence[str], *, fresh: bool, targets: Targets) -> bool:
    """Measure, print and check every change on every scan.

    Returns:
        Whether some change costs more than ``LIMIT``.
    """
    import torch

    from lib.core.geometry import Volume, spacing_of
    from lib.core.labels import LabelSchema
    from lib.core.metrics import mean_dice
    from lib.formats.label_files import read_label
    from lib.formats.volumes import read_volume
    from lib.generalists import create_generalist
    from lib.propagation import Template, create_propagator

    torch.set_num_threads(common.THREADS)
    schema = LabelSchema(data.labels)
    template_name = data.split()["train"][0]
    first = read_volume(data.image(template_name))
    template = Template(template_name, first, read_label(data.label(template_name), first, schema))
    propagator, generalist = create_propagator("registration"), create_generalist("mind")

    def dice(stored: Stored) -> float:
        image, label, affine = stored
        scan = Volume(np.ascontiguousarray(image, dtype=np.float32), affine)
        found = propagator.propagate(template, scan, schema.channels, generalist)
        return mean_dice(found.labels(), label, schema.count)

    heading(f"Geometry, {data.name}", {"template": template_name, "scans": len(scans), "method": "registration"})
    store = Store(common.RESULTS / data.name / "geometry.json", fresh=fresh)
    version = methods.version("registration")
    if store.data.get("version") != version:
        store.data = {"version": version, "scans": {}}
    results: dict[str, dict[str, Any]] = store.data["scans"]
    for name in scans:
        kept = results.setdefault(name, {})
        scan = read_volume(data.image(name))
        original: Stored = (scan.array, read_label(data.label(name), scan, schema), scan.affine)
        for change, apply in {"as it is": lambda stored: stored, **CHANGES}.items():
            if change in kept:
                continue
            stored = apply(original)
            # The change itself must leave the anatomy where it is, as far as the coarser of both grids can tell.
            coarsest = max(*scan.spacing, *spacing_of(stored[2]))
            assert np.abs(centre(stored) - centre(original)).max() < 0.5 * coarsest, change
            kept[change] = dice(stored)
            store.save()
        print(f"{name}: " + "  ".join(f"{change} {value:.3f}" for change, value in kept.items()), flush=True)
    rows = []
    for change in ["as it is", *CHANGES]:
        losses = [results[name]["as it is"] - results[name][change] for name in scans]
        mean = statistics.fmean(results[name][change] for name in scans)
        rows.append([change, mean, f"{statistics.fmean(losses):+.4f}", f"{max(losses):+.4f}"])
    print()
    print(table(["stored", "mean Dice", "mean loss", "worst loss"], rows))
    print()
    lost = False
    for change in CHANGES:
        loss = statistics.fmean(results[name]["as it is"] - results[name][change] for name in scans)
        if change != "all of them":
            targets.expect(loss < LIMIT, f"{change}: mean loss below {LIMIT}: {loss:+.4f}")
            lost = lost or loss >= LIMIT
    return lost
