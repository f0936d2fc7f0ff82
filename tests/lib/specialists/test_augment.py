"""Random changes of training windows."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.specialists.augment import Augmentation

CHANGED = Augmentation(rotation=0, scale=0, elastic=0, noise=0, bias=0, contrast=0.25, brightness=0.2)
"""Intensities only, so that what was done to them can be read off."""


def change(image: Tensor, seed: int) -> list[tuple[float, float]]:
    """The contrast and brightness that each channel of ``[C, D, H, W]`` has got."""
    size = image.shape[1:]
    centre = [(n - 1) / 2 for n in size]
    cut, _ = CHANGED.window(image, torch.zeros(1, *size), centre, size, torch.Generator().manual_seed(seed))
    found = []
    for before, after in zip(image.flatten(1), cut.flatten(1), strict=True):
        contrast = float((after.max() - after.min()) / (before.max() - before.min()))
        found.append((round(contrast, 3), round(float(after.mean() - contrast * before.mean()), 3)))
    return found


def test_channels_of_a_scan_change_each_by_itself_and_colours_alike() -> None:
    """T1 and T2 are measured one after the other; one camera gives all colours."""
    generator = torch.Generator().manual_seed(0)
    scan, picture = torch.rand(2, 8, 8, 8, generator=generator), torch.rand(3, 1, 16, 16, generator=generator)
    for seed in range(5):
        first, second = change(scan, seed)
        assert abs(first[0] - second[0]) + abs(first[1] - second[1]) > 0.01
        assert len(set(change(picture, seed))) == 1
        assert change(scan[:1], seed) == [first]  # the first channel is changed as it would be alone
