"""A made-up study to try the server on: abdominal phantoms, one of them outlined."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from lib.core.errors import UserError

DEMO_LABELS = ("liver", "spleen", "left_kidney", "right_kidney", "aorta")
"""Structures of the demo study; the voxel value is the position plus one."""

SIZE = (80, 64, 56)
"""Voxels of a scan along left-right, back-front and down-up, before the differences between patients."""

SPACING = 3.0
"""Voxel size in mm, before the differences between patients."""

Distance = Callable[[np.ndarray], np.ndarray]
"""Points ``[3, D, H, W]`` in mm to the distance from a surface in mm, negative inside."""


@dataclass(frozen=True)
class Tissue:
    """One part of the phantom.

    Args:
        surface: where it is.
        intensity: its mean.
        texture: standard deviation of its structure around that mean.
        grain: size of that structure in mm.
        label: name in ``DEMO_LABELS``, or None for what the user does not outline.
    """

    surface: Distance
    intensity: float
    texture: float
    grain: float
    label: str | None = None


def make_demo_study(folder: Path, *, scans: int = 12, seed: int = 0, truth_folder: Path | None = None) -> list[str]:
    """Write a study of deformed multi-organ phantoms whose first scan has a ``final`` label.

    The study appears whole or not at all: it is made in a temporary folder beside ``folder`` and moved there. The same
    seed gives the same files, and a scan does not depend on how many others there are.

    Args:
        folder: the new study; must not exist, or be empty.
        scans: number of scans.
        seed: of the random numbers.
        truth_folder: also write the label map of every scan there, under the scan's name. Outside the study, so that
            no method can see it.

    Returns:
        Label names in the order of their voxel values.

    Raises:
        UserError: when one of the folders holds something already, or ``scans`` is not positive.
    """
    if scans < 1:
        raise UserError(f"A demo study needs at least one scan, not {scans}.")
    folder = Path(folder).absolute()
    truth_folder = Path(truth_folder).absolute() if truth_folder is not None else None
    for target in filter(None, (folder, truth_folder)):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{target} is not empty. Name a new folder, or remove this one first.", status=409)
        target.parent.mkdir(parents=True, exist_ok=True)

    parts = {
        target: Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
        for target in (folder, truth_folder)
        if target
    }
    try:
        final = parts[folder] / "labels" / "final"
        final.mkdir(parents=True)
        for index in range(scans):
            name = f"demo_{index + 1:02d}.nii.gz"
            image, label, affine = make_phantom(index, seed=seed)
            _save(parts[folder] / name, image, affine)
            if index == 0:
                _save(final / name, label, affine)
            if truth_folder is not None:
                _save(parts[truth_folder] / name, label, affine)
        for target in reversed(parts):
            parts[target].chmod(0o755)
            os.replace(parts[target], target)
    finally:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)
    return list(DEMO_LABELS)


def make_phantom(index: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One patient.

    Args:
        index: number of the patient; number 0 is made like all others.
        seed: of the random numbers.

    Returns:
        image ``[D, H, W]`` int16, label ``[D, H, W]`` uint8 with values of ``DEMO_LABELS``, affine ``[4, 4]`` in RAS.
    """
    random = np.random.default_rng([seed, index])
    spacing = SPACING * random.uniform(0.94, 1.08, size=3)
    shape = tuple(int(n) for n in np.asarray(SIZE) + random.integers(-3, 4, size=3))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -0.5 * spacing * (np.asarray(shape) - 1) + random.uniform(-6, 6, size=3)

    points = _anatomy_points(shape, affine, random)
    image = np.zeros(shape)
    label = np.zeros(shape, dtype=np.uint8)
    for tissue in _tissues(random):
        distance = tissue.surface(points)
        # Voxels at a border see a bit of both sides.
        share = 1.0 / (1.0 + np.exp(np.clip(distance / 0.8, -30, 30)))
        structure = tissue.texture * _noise(shape, tissue.grain / spacing, random)
        image += share * (tissue.intensity * random.normal(1.0, 0.02) + structure - image)
        label[distance < 0] = DEMO_LABELS.index(tissue.label) + 1 if tissue.label else 0

    image *= 1.0 + 0.06 * _noise(shape, 70.0 / spacing, random)
    image = image * random.uniform(0.6, 1.8) + random.uniform(-100, 300)
    image += random.normal(0.0, 0.025 * (image.max() - image.min()), size=shape)
    return np.round(image).astype(np.int16), label, affine


def _anatomy_points(shape: tuple[int, ...], affine: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Where each voxel of this patient lies in the common anatomy: ``[3, D, H, W]`` in mm."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).astype(float)
    points = np.tensordot(affine[:3, :3], index, axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)
    turn = _rotation(np.deg2rad(random.normal(0.0, 3.0, size=3)))
    scale = random.normal(1.0, 0.05, size=3).clip(0.88, 1.12)
    points = np.tensordot(turn * scale, points, axes=1) + random.normal(0.0, 4.0, size=3).reshape(3, 1, 1, 1)
    spacing = np.diag(affine)[:3]
    bend = np.stack([4.5 * _noise(shape, 45.0 / spacing, random) for _ in range(3)])
    ripple = np.stack([1.0 * _noise(shape, 18.0 / spacing, random) for _ in range(3)])
    return np.asarray(points + bend + ripple)


def _tissues(random: np.random.Generator) -> list[Tissue]:
    """The phantom from outside to inside: a later tissue covers an earlier one. x is right, y front, z up."""

    def organ(surface: Distance) -> Distance:
        # Organs also differ from patient to patient on their own, not only with the body around them.
        offset = random.normal(0.0, 2.5, size=3).reshape(3, 1, 1, 1)
        growth = random.normal(0.0, 1.2)
        return lambda p: surface(p - offset) - growth

    liver = _union(_ellipsoid((48, 8, 26), (47, 52, 42)), _ellipsoid((5, 36, 34), (48, 24, 24)), blend=12)
    stomach = _ellipsoid((-36, 28, 26), (27, 25, 34))
    spleen = _minus(_ellipsoid((-66, -20, 26), (24, 33, 36)), _ellipsoid((-46, -8, 24), (22, 26, 44)))
    left_kidney = _minus(_ellipsoid((-42, -38, -20), (19, 17, 34)), _ellipsoid((-22, -32, -20), (12, 9, 13)))
    right_kidney = _minus(_ellipsoid((42, -38, -30), (19, 17, 34)), _ellipsoid((22, -32, -30), (12, 9, 13)))
    shrunken = 6.0
    left, right = organ(left_kidney), organ(right_kidney)
    return [
        Tissue(_ellipsoid((0, 0, 0), (108, 82, 260)), 260, 10, 12),  # fat under the skin
        Tissue(_ellipsoid((0, -2, 0), (98, 72, 250)), 520, 18, 6),  # muscle of the wall
        Tissue(_ellipsoid((0, 4, 0), (90, 62, 240)), 330, 25, 10),  # fat between the organs
        Tissue(organ(_ellipsoid((0, 24, -46), (62, 30, 34))), 500, 130, 9),  # bowel
        Tissue(_ellipsoid((52, -5, 92), (42, 58, 46)), 60, 15, 5),  # lungs
        Tissue(_ellipsoid((-52, -5, 92), (42, 58, 46)), 60, 15, 5),
        Tissue(_tube((26, -44), 15, bottom=-200, top=10), 530, 15, 5),  # muscles beside the spine
        Tissue(_tube((-26, -44), 15, bottom=-200, top=10), 530, 15, 5),
        Tissue(_tube((0, -54), 19, bottom=-300, top=300), 900, 60, 5),  # spine
        Tissue(_tube((0, -72), 6, bottom=-300, top=300), 980, 40, 5),
        Tissue(_tube((0, -54), 7, bottom=-300, top=300), 640, 10, 5),
        Tissue(organ(liver), 690, 22, 5, "liver"),
        Tissue(organ(stomach), 470, 60, 14),
        Tissue(organ(spleen), 770, 14, 7, "spleen"),
        Tissue(left, 860, 20, 4, "left_kidney"),
        Tissue(_grown(left, -shrunken), 730, 30, 4, "left_kidney"),  # the darker middle of the kidneys
        Tissue(right, 860, 20, 4, "right_kidney"),
        Tissue(_grown(right, -shrunken), 730, 30, 4, "right_kidney"),
        Tissue(organ(_tube((-8, -26), 10.5, bottom=-300, top=300)), 840, 10, 6, "aorta"),
        Tissue(organ(_tube((17, -24), 9, bottom=-300, top=300)), 760, 10, 6),  # vena cava
    ]


def _ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> Distance:
    """Distance to an ellipsoid, exact enough near its surface."""
    c, r = (np.asarray(v, dtype=float).reshape(3, 1, 1, 1) for v in (centre, radii))

    def distance(p: np.ndarray) -> np.ndarray:
        near = np.sqrt((((p - c) / r) ** 2).sum(axis=0))
        slope = np.sqrt((((p - c) / r**2) ** 2).sum(axis=0))
        return np.asarray(near * (near - 1.0) / np.maximum(slope, 1e-9))

    return distance


def _tube(centre: tuple[float, float], radius: float, *, bottom: float, top: float) -> Distance:
    """Distance to an upright cylinder from ``bottom`` to ``top``."""

    def distance(p: np.ndarray) -> np.ndarray:
        across = np.hypot(p[0] - centre[0], p[1] - centre[1]) - radius
        return np.asarray(np.maximum(across, np.maximum(bottom - p[2], p[2] - top)))

    return distance


def _union(first: Distance, second: Distance, *, blend: float) -> Distance:
    """Both, with a rounding of ``blend`` mm where they meet."""

    def distance(p: np.ndarray) -> np.ndarray:
        a, b = first(p), second(p)
        h = np.clip(0.5 + 0.5 * (b - a) / blend, 0.0, 1.0)
        return np.asarray(b + h * (a - b) - blend * h * (1.0 - h))

    return distance


def _minus(body: Distance, bite: Distance) -> Distance:
    """What is left of ``body`` without ``bite``."""
    return lambda p: np.maximum(body(p), -bite(p))


def _grown(surface: Distance, by: float) -> Distance:
    """The same shape, ``by`` mm larger on every side."""
    return lambda p: surface(p) - by


def _noise(shape: tuple[int, ...], grain: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Smooth noise with standard deviation one and details of ``grain`` voxels."""
    # Coarse noise is drawn on a coarse grid: the cost does not grow with the grain.
    step = np.maximum(grain / 2.5, 1.0)
    coarse = tuple(int(n) for n in np.ceil(np.asarray(shape) / step).astype(int) + 2)
    field = gaussian_filter(random.standard_normal(coarse), grain / step / 2.355, mode="nearest")
    if max(step) > 1.0:
        field = zoom(field, [(n + 2 * s) / c for n, s, c in zip(shape, step, coarse, strict=True)], order=1)
    field = field[tuple(slice(0, n) for n in shape)]
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-9))


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix of small turns about the three axes (radians)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    result: np.ndarray = about_z @ about_y @ about_x
    return result


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
