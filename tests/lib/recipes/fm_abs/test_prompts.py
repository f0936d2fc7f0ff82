"""Boxes and points made from a mask."""

from __future__ import annotations

import torch

from lib.recipes.fm_abs.prompts import PromptOptions, large_parts, prompts_of


def test_boxes_and_points_come_from_each_slice_of_a_mask() -> None:
    mask = torch.zeros(5, 60, 50, dtype=torch.bool)
    mask[1, 10:30, 20:40] = True
    mask[3, 0:8, 45:50] = True
    mask[4, 7, 7] = True  # a speck
    seen = set()
    for seed in range(20):
        one, two = prompts_of(mask, PromptOptions(), torch.Generator().manual_seed(seed))
        assert (one.index, two.index) == (1, 3)
        assert 6 <= one.low[0] <= 10
        assert 29 <= one.high[0] <= 33
        assert two.low[0] == 0  # a box ends with the slice
        assert two.high[1] == 49
        assert one.points.shape == two.points.shape == (5, 2)
        assert bool(mask[1][tuple(one.points.T)].all())
        assert bool(mask[3][tuple(two.points.T)].all())
        seen.add((one.low, one.high))
    assert len(seen) > 10
    wide = PromptOptions(expand_share=10.0)
    assert all(prompts_of(mask, wide, torch.Generator().manual_seed(s))[0].high[0] <= 39 for s in range(20))
    assert prompts_of(torch.zeros_like(mask), wide, torch.Generator()) == []


def test_each_part_of_a_mask_has_its_own_box_and_specks_have_none() -> None:
    mask = torch.zeros(2, 40, 40, dtype=torch.bool)
    mask[1, 5:11, 5:11] = mask[1, 20:28, 22:30] = mask[1, 35:37, 2:5] = True
    prompts = prompts_of(mask, PromptOptions(expand=0), torch.Generator())
    assert [(p.index, p.low, p.high) for p in prompts] == [(1, (20, 22), (27, 29)), (1, (5, 5), (10, 10))]
    sizes = [int(part.sum()) for part in large_parts(mask)]
    assert sizes == [64, 36]
