"""A box without clicks: what fills it is meant, though something else may lie in its middle."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from lib.core.metrics import overlap
from lib.generalists.base import Prompts
from lib.prompting import GraphCut

SHAPE = (64, 64, 9)
THICK, THIN = (1.3, 1.3, 8.0), (1.3, 1.3, 1.3)
BOX = torch.tensor([[12.0, 10.0, 1.0], [52.0, 50.0, 7.0]])


def wall() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """A grey wall around a bright cavity in darker, textured surroundings: scan ``[1, D, H, W]``, wall and cavity."""
    random = np.random.default_rng(4)
    i, j, k = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    away, slices = np.hypot(i - 32, j - 30), (k > 0) & (k < 8)
    cavity, outer = (away < 11) & slices, (away < 20.5) & slices
    texture = gaussian_filter(random.normal(size=SHAPE), (2, 2, 0))
    image = 60.0 * outer + 60 * cavity + 5 * texture / texture.std() + random.normal(size=SHAPE) * 4
    return torch.tensor(image, dtype=torch.float32)[None], outer & ~cavity, cavity


def asked(*outside: tuple[float, float, float]) -> Prompts:
    return Prompts(torch.tensor(outside).reshape(-1, 3), torch.zeros(len(outside), dtype=torch.bool), box=BOX)


def dice(found: torch.Tensor, truth: np.ndarray) -> float:
    return overlap(np.asarray(found) >= 0.5, truth)[0]


def test_a_box_around_a_wall_is_not_answered_with_the_cavity() -> None:
    image, ring, cavity = wall()
    found = GraphCut().open(image, THICK).segment(asked())
    assert dice(found, ring | cavity) > 0.9
    assert dice(found, ring) > 0.7


def test_a_click_takes_the_cavity_out_of_the_wall() -> None:
    image, ring, _ = wall()
    session = GraphCut().open(image, THICK)
    first = session.segment(asked())
    second = session.segment(
        Prompts(torch.tensor([[32.0, 30.0, 4.0]]), torch.tensor([False]), box=BOX, mask=(first >= 0.5).float())
    )
    assert dice(second, ring) > dice(first, ring) + 0.05


def test_a_box_wider_than_the_structure_is_answered_with_the_structure() -> None:
    random = np.random.default_rng(5)
    i, j, k = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    disc = (np.hypot(i - 32, j - 30) < 13) & (k > 0) & (k < 8)
    image = torch.tensor(100.0 * disc + random.normal(size=SHAPE) * 8, dtype=torch.float32)[None]
    for spacing in (THICK, THIN):
        assert dice(GraphCut().open(image, spacing).segment(asked()), disc) > 0.9
