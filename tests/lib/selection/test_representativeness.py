"""Which scans stand for a study, and how a study is covered."""

from __future__ import annotations

import importlib
import time

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lib.selection import representativeness, spread


def clusters(sizes: tuple[int, ...] = (12, 6, 3), features: int = 30, noise: float = 0.05) -> Tensor:
    random = torch.Generator().manual_seed(0)
    rows = []
    for n, size in enumerate(sizes):
        centre = torch.zeros(features)
        centre[n] = 1.0
        rows += [centre] + [centre + noise * torch.randn(features, generator=random) for _ in range(size - 1)]
    return normalize(torch.stack(rows), dim=1)


def test_the_middle_of_the_largest_group_stands_for_the_study() -> None:
    scores = representativeness(clusters())
    assert int(scores.argmax()) == 0
    assert float(scores.max()) == 1.0
    assert float(scores.min()) >= 0.0
    assert float(scores[:12].mean()) > float(scores[12:18].mean()) > float(scores[18:].mean())


def test_an_outlier_stands_for_nothing() -> None:
    outlier = torch.zeros(1, 30)
    outlier[0, 20] = 1.0
    assert float(representativeness(torch.cat([clusters(), outlier]))[-1]) < 0.2


def test_hand_computed_similarity() -> None:
    # Distances: a-b 0, a-c and b-c sqrt(2). The usual distance is the median of (0, sqrt(2), sqrt(2)).
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    far = torch.tensor(-2.0 / (2 * 0.4**2 * 2.0)).exp()
    expected = torch.stack([torch.tensor(1.0), torch.tensor(1.0), 2 * far / (1 + far)])
    torch.testing.assert_close(representativeness(rows), expected)


def test_one_scan_and_equal_scans_are_all_typical() -> None:
    assert representativeness(torch.ones(1, 4) / 2).tolist() == [1.0]
    assert representativeness(torch.ones(5, 4) / 2).tolist() == [1.0] * 5
    assert representativeness(torch.eye(1)).tolist() == [1.0]


def test_the_order_of_the_scans_does_not_matter() -> None:
    rows = clusters()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(representativeness(rows[order]), representativeness(rows)[order])


def test_spread_visits_every_group_first() -> None:
    first = spread(clusters(), [], 3)
    assert first[0] == 0
    assert {0 if n < 12 else 1 if n < 18 else 2 for n in first} == {0, 1, 2}


def test_spread_leaves_out_what_is_covered_already() -> None:
    found = spread(clusters(), [1, 13], 1)
    assert 18 <= found[0] < 21


def test_spread_gives_each_scan_once_and_no_more_than_there_are() -> None:
    rows = clusters()
    found = spread(rows, [4, 4], 100)
    assert sorted([*found, 4]) == list(range(len(rows)))
    assert spread(rows, [], 0) == []


def test_spread_is_greedy() -> None:
    rows = clusters()
    longer = spread(rows, [], 6)
    assert spread(rows, longer[:2], 4) == longer[2:]


def test_ties_go_by_position() -> None:
    same = normalize(torch.ones(6, 8), dim=1)
    assert spread(same, [], 4) == [0, 1, 2, 3]
    assert spread(torch.eye(5), [], 5) == [0, 1, 2, 3, 4]


def test_a_study_of_3000_scans_needs_no_large_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = normalize(torch.randn(3000, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    from lib.selection import representativeness as _  # noqa: F401
    from lib.selection import similarity as module

    largest = 0
    inner = module.similarity

    def watched(some: Tensor, others: Tensor, usual: float) -> Tensor:
        nonlocal largest
        found = inner(some, others, usual)
        largest = max(largest, found.numel() * found.element_size())
        return found

    # The package offers the function of this name, which hides the module.
    monkeypatch.setattr(importlib.import_module("lib.selection.representativeness"), "similarity", watched)
    begun = time.process_time()
    assert representativeness(rows).shape == (3000,)
    assert len(spread(rows, [5, 6], 10)) == 10
    assert largest <= 64 * 2**20
    assert time.process_time() - begun < 20
