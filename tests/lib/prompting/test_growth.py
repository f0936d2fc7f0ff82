"""An answer ends where the structure ends, never at the edge of the region that was searched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from dicomfiles import abdomen
from lib.core.geometry import Volume
from lib.core.metrics import overlap
from lib.generalists.base import Prompts
from lib.prompting import Clicks, GraphCut, OpenScan
from lib.prompting.growth import edge_support
from lib.prompting.region import Region
from simulated_clicks import next_click

SHAPE = (70, 66, 60)
SPACING = (4.0, 4.0, 4.0)


def organ(radius_mm: float, contrast: float = 30.0) -> tuple[torch.Tensor, np.ndarray]:
    """An even, noisy ball in textured surroundings 28 cm wide."""
    random = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)], indexing="ij"), -1)
    ball = ((grid - (140, 130, 120)) ** 2).sum(-1) < radius_mm**2
    texture = gaussian_filter(random.normal(size=SHAPE), 2)
    image = contrast * ball + 6 * texture / texture.std() * ~ball + random.normal(size=SHAPE) * 4
    return torch.tensor(image, dtype=torch.float32)[None], ball


def click(*place: float) -> Prompts:
    return Prompts(torch.tensor([place], dtype=torch.float32), torch.tensor([True]))


@pytest.mark.parametrize("radius_mm", [20.0, 45.0, 75.0])
def test_one_click_finds_an_organ_of_any_size(radius_mm: float) -> None:
    image, ball = organ(radius_mm)
    answer = GraphCut().open(image, SPACING).segment(click(35, 33, 30))
    assert overlap(np.asarray(answer) >= 0.5, ball)[0] > 0.9


@pytest.mark.slow
def test_a_click_beside_the_middle_is_not_cut_off_either() -> None:
    image, ball = organ(75.0)
    answer = GraphCut().open(image, SPACING).segment(click(50, 33, 30))
    assert overlap(np.asarray(answer) >= 0.5, ball)[0] > 0.9


def test_answer_on_edges_is_told_from_one_without() -> None:
    image = np.zeros((20, 20, 20), dtype=np.float32)
    image[5:15, 5:15, 5:15] = 1.0
    ones = np.ones(image.shape)
    region = Region(((0, 20), (0, 20), (0, 20)), (1.0, 1.0, 1.0), image, ones, ones > 0)
    half = image > 0
    half[10:] = False
    assert edge_support(region, image > 0) == 1
    assert edge_support(region, half) == pytest.approx(3 / 4)  # the cut through the cube is none
    assert edge_support(region, np.ones_like(half)) == 0  # all of it ends with the region
    assert edge_support(region, np.zeros_like(half)) == 0


@pytest.mark.slow
@pytest.mark.realdata
def test_liver_in_a_real_ct_after_one_click_and_after_three() -> None:
    scan, real = abdomen(step=2)
    if not real:
        pytest.skip("../shared/data/chaos_ct_dicom is not there")
    volume, truth = Volume(scan.array.astype(np.float32), scan.affine), scan.label > 0
    opened, found, reached = OpenScan(volume, GraphCut()), np.zeros_like(truth), []
    places: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
    for _ in range(3):
        wrong = next_click(found, truth, volume.spacing)
        assert wrong is not None
        places[wrong[1]].append(wrong[0])
        inside, outside = (np.array(places[side], dtype=float).reshape(-1, 3) for side in (True, False))
        found = opened.segment(Clicks(inside, outside))
        reached.append(overlap(found, truth)[0])
        assert widest_step(found) < 0.1
    assert reached[0] > 0.6
    assert reached[2] > 0.85


def widest_step(found: np.ndarray) -> float:
    """The largest share of an answer's surface that lies in one plane across an axis: a straight face."""
    faces = [
        np.count_nonzero(np.take(found, n, axis) != np.take(found, n + 1, axis))
        for axis in range(3)
        for n in range(found.shape[axis] - 1)
    ]
    return max(faces) / sum(faces) if sum(faces) else 0.0
