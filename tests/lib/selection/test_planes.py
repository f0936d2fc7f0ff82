"""The three planes most worth outlining, and where a viewer shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.selection import planes_in_scan, planes_to_outline

SHAPE = (20, 22, 24)


def one_hot(label: Tensor, count: int) -> Tensor:
    return torch.stack([(label == value).float() for value in range(count + 1)])


def ball(centre: tuple[int, int, int], radius: float, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))
    return (grid - torch.tensor(centre, dtype=torch.float32).view(3, 1, 1, 1)).norm(dim=0) <= radius


def test_without_doubt_the_planes_go_through_the_widest_part() -> None:
    label = ball((6, 12, 15), 4.2).long()
    assert planes_to_outline(one_hot(label, 1), torch.zeros(SHAPE)) == (6, 12, 15)


def test_doubt_moves_a_plane_within_the_structure() -> None:
    label = torch.zeros(SHAPE, dtype=torch.long)
    label[5:15, 5:15, 5:15] = 1  # every plane through it is equally wide
    doubt = torch.zeros(SHAPE)
    doubt[12:15, 6:9, 5:8] = 1.0
    assert planes_to_outline(one_hot(label, 1), doubt) == (13, 7, 6)


def test_doubt_far_from_the_structures_is_ignored() -> None:
    label = ball((6, 12, 15), 4.2).long()
    doubt = torch.zeros(SHAPE)
    doubt[16:, :3, :3] = 1.0
    assert planes_to_outline(one_hot(label, 1), doubt) == (6, 12, 15)


def test_a_small_structure_counts_as_much_as_a_large_one() -> None:
    label = torch.zeros(SHAPE, dtype=torch.long)
    label[2:18, 2:20, 4:20] = 1
    label[9:12, 15:17, 10:12] = 2
    i, j, k = planes_to_outline(one_hot(label, 2), torch.zeros(SHAPE))
    assert (i, j, k) in {(i, j, k) for i in (9, 10, 11) for j in (15, 16) for k in (10, 11)}


def test_without_structures_doubt_decides_and_without_both_the_middle() -> None:
    nothing = torch.zeros(2, *SHAPE)
    nothing[0] = 1.0
    assert planes_to_outline(nothing, torch.zeros(SHAPE)) == (9, 10, 11)
    nearly = nothing.clone()
    nearly[1, 3:6, 14:17, 18:21] = 0.4
    nearly[0] -= nearly[1]
    doubt = nearly[1] / 0.4
    assert planes_to_outline(nearly, doubt) == (4, 15, 19)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_flip_the_planes(axis: int) -> None:
    label = ball((6, 12, 15), 4.2).long()
    doubt = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    own = planes_to_outline(one_hot(label, 1), doubt)
    turned = planes_to_outline(one_hot(label, 1).flip(axis + 1), doubt.flip(axis))
    expected = [n if a != axis else SHAPE[a] - 1 - n for a, n in enumerate(own)]
    assert list(turned) == expected


def marked_scan(affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    return Volume(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_planes_are_named_and_lie_in_the_scan_s_own_voxels(
    flips: tuple[int, int, int], order: tuple[int, int, int]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, world in enumerate(order):
        affine[world, axis] = flips[axis] * (axis + 1.0)
    affine[:3, 3] = (10, -20, 30)
    scan = marked_scan(affine, (12, 14, 16))
    frame = frame_of(scan)
    mark = np.zeros(scan.shape, np.uint8)
    mark[3, 4, 5] = 1
    where = [int(n) for n in np.argwhere(frame.crop(mark))[0]]
    found = planes_in_scan(frame, (where[0], where[1], where[2]), affine)
    assert list(found) == ["axial", "coronal", "sagittal"]
    place = affine @ (3, 4, 5, 1)
    for name, world in (("sagittal", 0), ("coronal", 1), ("axial", 2)):
        axis = order.index(world)
        assert found[name]["axis"] == axis
        assert found[name]["index"] == (3, 4, 5)[axis]
        assert found[name]["mm"] == pytest.approx(place[world])


def test_a_coarse_grid_over_a_cropped_scan_is_followed_back() -> None:
    array = np.zeros((40, 30, 20), np.float32)
    array[10:30] = np.random.default_rng(0).normal(size=(20, 30, 20))
    frame = frame_of(Volume(array, np.eye(4))).with_shape((10, 10, 10))
    found = planes_in_scan(frame, (0, 5, 9))
    assert [found[name]["index"] for name in ("sagittal", "coronal", "axial")] == [11, 16, 19]
    assert "mm" not in found["axial"]


def test_a_2d_image_has_one_plane() -> None:
    frame = frame_of(marked_scan(np.diag([-1.0, -1.0, 1.0, 1.0]), (30, 20, 1)))
    assert planes_in_scan(frame, (3, 4, 0)) == {"axial": {"axis": 2, "index": 0}}
