"""The rough placement of a template over a scan."""

import pytest
import torch

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.propagation.placement import Placement, best_shift, find_placement
from phantoms import blobs


def test_best_shift_finds_where_a_piece_was_cut_out() -> None:
    values = torch.randn(4, 20, 24, 18, generator=torch.Generator().manual_seed(0))
    assert best_shift(values, values[:, 5:17, 3:19, 2:14]) == (5, 3, 2)
    assert best_shift(values[:, 5:17, 3:19, 2:14], values) == (-5, -3, -2)


def test_place_puts_values_where_they_belong_and_says_what_is_covered() -> None:
    placement = Placement((2, 2, 2), (-1, 0, 3))
    placed = placement.place(torch.arange(8.0).reshape(1, 2, 2, 2), (4, 4, 4), fill=-1)
    assert placed[0, 0, 0, 3] == 4
    assert placed[0, 0, 1, 3] == 6
    assert int((placed >= 0).sum()) == 2
    assert int(placement.covered((4, 4, 4)).sum()) == 2


@pytest.mark.parametrize("factor", [0.001, 0.05, 1000])
def test_a_template_with_lengths_of_another_unit_is_laid_over_the_whole_scan(factor: float) -> None:
    scan, _ = blobs()
    affine = scan.affine.copy()
    affine[:3] *= factor
    template, own = Volume(scan.array, affine), frame_of(scan)
    placed = find_placement(own, own.image(scan.array), frame_of(template).with_spacing(own.spacing), template)
    assert placed == Placement(own.shape, (0, 0, 0))
