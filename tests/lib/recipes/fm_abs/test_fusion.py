"""What three views agree on."""

from __future__ import annotations

import torch

from lib.recipes.fm_abs.fusion import NOBODY, fuse


def test_fusion_tables() -> None:
    views = torch.tensor([[0, 1, 1, 1, 0, 2, 2], [0, 1, 1, 0, 1, 1, 2], [0, 1, 0, 0, 2, 1, 0]], dtype=torch.uint8)
    views = views.reshape(3, 1, 1, 7)
    assert fuse(views, "majority").flatten().tolist() == [0, 1, 1, 0, NOBODY, 1, 2]
    unanimous = [0, 1, NOBODY, NOBODY, NOBODY, NOBODY, NOBODY]
    assert fuse(views, "unanimous").flatten().tolist() == unanimous
