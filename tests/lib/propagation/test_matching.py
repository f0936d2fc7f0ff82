"""Which searches follow the first matching."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib.generalists.mind import Mind
from lib.propagation import matching
from lib.propagation.brightness import Brightness
from lib.propagation.displacement import coarse_displacement
from lib.propagation.matching import Effort, Pair, match

SHAPE = (26, 24, 22)
EFFORT = Effort(stride=6, reach=2, fine=2, iterations=4, smoothness=1.25, passes=2, closing=0)


def pair(*, coarse: bool) -> Pair:
    image = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.avg_pool3d(image[None], 3, 1, 1)[0]
    moved = torch.roll(image, 2, dims=1)
    fixed, moving = (Mind().encode(each, (1, 1, 1)) for each in (image, moved))
    both = Brightness(image, moved, torch.ones(1, *SHAPE))
    return Pair(fixed, moving, torch.ones(1, *SHAPE), lambda: both, coarse)


@pytest.fixture
def strides(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Stride of each search, and the channels that it looks at."""
    seen: list[tuple[int, int]] = []

    def search(fixed: Tensor, moving: Tensor, *, stride: int, reach: int) -> Tensor:
        seen.append((stride, len(fixed)))
        return torch.full_like(coarse_displacement(fixed, moving, stride=stride, reach=reach), 2.0)

    def joined(fixed: Tensor, moving: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        return torch.cat([fixed, fixed[:1]]), torch.cat([moving, moving[:1]])

    monkeypatch.setattr(matching, "coarse_displacement", search)
    monkeypatch.setattr(matching, "with_brightness", joined)
    return seen


@pytest.mark.parametrize(("coarse", "expected"), [(False, [6, 6, 4]), (True, [6, 6, 4, 3])])
def test_a_large_coarse_grid_is_searched_once_more(
    strides: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, coarse: bool, expected: list[int]
) -> None:
    monkeypatch.setattr(matching, "FEW", 0)
    found = match(pair(coarse=coarse), EFFORT, None)
    assert [stride for stride, _ in strides] == expected
    assert [channels for _, channels in strides] == [12, *[13] * (len(expected) - 1)]
    assert len(found.fixed) == len(found.moving) == 13  # what was matched last, brightness behind the others


def test_a_small_grid_is_not_searched_more_closely(strides: list[tuple[int, int]]) -> None:
    match(pair(coarse=True), EFFORT, None)
    assert [stride for stride, _ in strides] == [6, 6]


def test_without_brightness_nothing_is_searched_more_closely(
    strides: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "FEW", 0)
    monkeypatch.setattr(matching, "with_brightness", lambda *_: None)
    found = match(pair(coarse=True), EFFORT, None)
    assert [stride for stride, _ in strides] == [6, 6]
    assert len(found.fixed) == 12
