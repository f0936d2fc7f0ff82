"""A tiny study: a ball and a rod in textured surroundings."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).resolve().parents[2]


TINY_LABELS = ("ball", "rod")


def tiny_scan(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ball and a rod in textured surroundings; image, label and affine of patient ``number``."""
    random = np.random.default_rng([7, number])
    shape = (36, 32, 28)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -50.0
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"), axis=-1)
    ball = ((grid - (12, 15, 14) - random.uniform(-1.5, 1.5, 3)) ** 2).sum(-1) < random.uniform(5.5, 6.5) ** 2
    beside = grid[..., :2] - (26, 18) - random.uniform(-1.5, 1.5, 2)
    rod = ((beside**2).sum(-1) < 3.2**2) & (abs(grid[..., 2] - 14) < 10)
    body = ((grid - np.array(shape) / 2 + 0.5) ** 2 / (np.array(shape) * 0.46) ** 2).sum(-1) < 1
    image = body * 300.0 + ball * 250.0 - rod * 200.0 + gaussian_filter(random.normal(size=shape), 1.5) * 120
    image = gaussian_filter(image, 0.6) + random.normal(size=shape) * 4
    label = np.where(ball, 1, np.where(rod, 2, 0)).astype(np.uint8)
    return image.astype(np.int16), label, affine


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write an array as NIfTI; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def make_tiny_study(folder: Path, *, scans: int = 4, finals: int = 1) -> Path:
    """A study of ``scans`` scans, case_1, case_2, ...; the first ``finals`` are outlined."""
    for number in range(1, scans + 1):
        image, label, affine = tiny_scan(number)
        save_nifti(folder / f"case_{number}.nii.gz", image, affine)
        if number <= finals:
            save_nifti(folder / "labels" / "final" / f"case_{number}.nii.gz", label, affine)
    return folder


def add_second_channel(study: Path) -> None:
    """Give all scans of a study a second channel of another contrast; a file has both then, along a fourth axis."""
    for file in study.glob("*.nii.gz"):
        image = nibabel.load(file)
        first = np.asarray(image.dataobj, np.float32)
        save_nifti(file, np.stack([first, 900 - 1.5 * first], axis=-1), image.affine)


def dice(one: np.ndarray, other: np.ndarray, value: int) -> float:
    """Overlap of one structure."""
    a, b = one == value, other == value
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
