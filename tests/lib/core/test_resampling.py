"""Grids of another number of voxels."""

from __future__ import annotations

import torch

from lib.core.resampling import resize


def test_shrinking_averages_instead_of_picking() -> None:
    stripes = torch.zeros(1, 8, 8, 8)
    stripes[:, ::2] = 1
    torch.testing.assert_close(resize(stripes, (4, 4, 4)), torch.full((1, 4, 4, 4), 0.5))


def test_shrinking_a_little_blurs_no_more_than_interpolation() -> None:
    edge = torch.zeros(1, 50, 4, 4)
    edge[:, 25:] = 1
    shrunk = resize(edge, (49, 4, 4))[0, :, 0, 0]
    between = (shrunk > 0.01) & (shrunk < 0.99)
    assert int(between.sum()) <= 1
    torch.testing.assert_close(shrunk.mean(), edge.mean())


def test_a_part_of_a_voxel_counts_as_far_as_it_is_covered() -> None:
    values = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    # Halves of 1.5 voxels: (1 + 2 / 2) / 1.5 and (2 / 2 + 4) / 1.5.
    torch.testing.assert_close(resize(values, (2, 1, 1)).flatten(), torch.tensor([4 / 3, 10 / 3]))
