"""Labels with three annotated planes: how they are recognised, and what is left of them on a coarser grid."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.core.sparse_labels import Planes, check_stated, find_planes, on_grid, stated
from lib.recipes import Case
from lib.recipes.engine.prepared_study import PreparedStudy
from lib.specialists import SpecialistSpec
from phantoms import blobs

SHAPE = (40, 44, 36)


def ball(
    radius: float, shape: tuple[int, int, int] = SHAPE, at: tuple[float, float, float] = (20, 22, 18)
) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return (((grid - np.array(at)) ** 2).sum(-1) <= radius**2).astype(np.uint8)


def cut(label: np.ndarray, *at: tuple[int, int]) -> np.ndarray:
    """Only what lies on the planes, each given as axis and index."""
    kept = np.zeros(label.shape, dtype=bool)
    for axis, index in at:
        kept[(slice(None),) * axis + (index,)] = True
    return np.where(kept, label, 0).astype(np.uint8)


def crossed(label: np.ndarray, i: int, j: int, k: int) -> np.ndarray:
    return cut(label, (0, i), (1, j), (2, k))


@pytest.mark.parametrize("radius", [2.5, 3, 5, 12])
@pytest.mark.parametrize("offset", [(0, 0, 0), (1, -1, 0)])
def test_three_planes_are_recognised(radius: float, offset: tuple[int, int, int]) -> None:
    at = (20 + offset[0], 22 + offset[1], 18 + offset[2])
    assert find_planes(crossed(ball(radius), *at)) == Planes(at)


def test_planes_far_from_the_middle_are_recognised() -> None:
    assert find_planes(crossed(ball(10), 14, 27, 20)) == Planes((14, 27, 20))


@pytest.mark.parametrize("radius", [0, 1, 1.5, 2, 2.5, 3, 9])
def test_a_structure_that_is_outlined_whole_is_not_sparse(radius: float) -> None:
    assert find_planes(ball(radius)) is None


def test_small_and_thin_structures_are_not_sparse() -> None:
    cube = np.zeros(SHAPE, np.uint8)
    cube[10:12, 10:12, 10:12] = 1
    assert find_planes(cube) is None
    lines = np.zeros(SHAPE, np.uint8)  # three thin vessels that meet
    lines[5:30, 20, 15] = lines[10, 5:35, 15] = lines[10, 20, 3:33] = 1
    assert find_planes(lines) is None
    sheet = np.zeros(SHAPE, np.uint8)
    sheet[5:30, 20:22, 15] = sheet[6, 5:40, 15:17] = 1
    assert find_planes(sheet) is None
    rod = np.zeros(SHAPE, np.uint8)
    rod[5:35, 19:22, 14:17] = 1
    assert find_planes(rod) is None


def test_two_planes_and_four_planes_are_not_three() -> None:
    label = ball(9)
    assert find_planes(cut(label, (0, 20), (1, 22))) is None
    assert find_planes(cut(label, (0, 20))) is None
    assert find_planes(cut(label, (2, 15), (2, 18), (2, 20))) is None
    assert find_planes(cut(label, (0, 20), (1, 22), (2, 18), (2, 20))) is None


def test_one_voxel_off_the_planes_makes_it_whole() -> None:
    label = crossed(ball(9), 20, 22, 18)
    label[23, 25, 21] = 1
    assert find_planes(label) is None


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_order_and_direction_of_the_axes(order: tuple[int, int, int]) -> None:
    label = np.flip(crossed(ball(9), 20, 21, 16).transpose(order), axis=1)
    at = [(20, 21, 16)[axis] for axis in order]
    at[1] = label.shape[1] - 1 - at[1]
    found = find_planes(label)
    assert found == Planes((at[0], at[1], at[2]))
    assert not (label[~found.mask(label.shape)]).any()


def test_several_structures_share_the_planes() -> None:
    _, label = blobs()
    sparse = crossed(label, 14, 22, 18)
    assert set(np.unique(sparse)) == {0, 1, 2}
    assert find_planes(sparse) == Planes((14, 22, 18))


def test_a_person_may_say_what_is_annotated() -> None:
    sparse = crossed(ball(9), 20, 22, 18)
    assert find_planes(sparse, "all") is None
    assert find_planes(sparse, "planes") == Planes((20, 22, 18))
    apart = np.zeros(SHAPE, np.uint8)  # each plane shows another structure
    apart[20, 2:6, 2:6] = apart[30:34, 22, 2:6] = apart[30:34, 36:40, 18] = 1
    assert find_planes(apart) == Planes((20, 22, 18))
    thin = np.zeros(SHAPE, np.uint8)  # too thin for its look to say anything
    thin[20, 2:6, 2:4] = thin[30:32, 22, 2:6] = thin[30:32, 36:40, 18] = 1
    assert find_planes(thin) is None
    assert find_planes(thin, "planes") == Planes((20, 22, 18))
    with pytest.raises(UserError, match="Outline one axial, one coronal and one sagittal slice") as error:
        find_planes(ball(9), "planes")
    assert error.value.status == 422


def test_what_is_said_is_read_beside_the_label() -> None:
    assert stated({}) == "auto"
    assert stated({"annotated": "planes"}) == "planes"
    assert stated({"params": {"annotated": "all"}}) == "all"
    assert check_stated("planes") == "planes"
    with pytest.raises(UserError, match="auto, all, planes"):
        check_stated(stated({"annotated": ["axial"]}))


def test_share_is_that_of_the_voxels() -> None:
    planes = Planes((3, 4, 5))
    assert planes.share((10, 12, 9)) == pytest.approx(planes.mask((10, 12, 9)).mean())


@pytest.mark.parametrize(("fine", "coarse"), [(0.625, 1.6), (0.625, 0.625), (1.6, 1.0), (1.0, 4.0)])
def test_planes_survive_resampling(fine: float, coarse: float) -> None:
    shape = (80, 88, 72)
    label = ball(25, shape, (40, 44, 36))
    sparse = crossed(label, 37, 45, 30)
    scan = Volume(np.random.default_rng(0).normal(size=shape).astype(np.float32), np.diag([fine, fine, fine, 1.0]))
    frame = frame_of(scan).with_spacing((coarse,) * 3)
    soft, weight = on_grid(sparse, Planes((37, 45, 30)), frame, 2)
    assert soft.shape[1:] == weight.shape == frame.shape
    assert torch.allclose(soft.sum(0), torch.ones(frame.shape), atol=1e-5)

    whole = frame.one_hot(label, 2)
    for axis, index in enumerate((37, 45, 30)):
        place = (index + 0.5) * frame.shape[axis] / shape[axis] - 0.5
        # A line across the plane that meets no other one: all of the plane's weight lies around its place.
        spot: list[int | slice] = [1, 1, 1]
        spot[axis] = slice(None)
        line = weight[tuple(spot)]
        assert line.max() >= 0.5
        assert line.sum() == pytest.approx(max(1.0, frame.shape[axis] / shape[axis]), abs=1e-4)
        assert all(abs(n - place) <= 1 + fine / coarse for n in line.nonzero().flatten().tolist())
        # On the plane the label is that of the whole outline, but for the border.
        layer = round(place)
        inside, truth = soft[1].select(axis, layer) > 0.5, whole[1].select(axis, layer) > 0.5
        assert 2 * (inside & truth).sum() / (inside.sum() + truth.sum()) > 0.95
    off = weight == 0
    assert 0.4 < off.float().mean() < 0.99


def test_labels_are_not_mixed_with_background_nobody_has_drawn() -> None:
    label = ball(12, (41, 41, 41), (20, 20, 20))
    scan = Volume(np.random.default_rng(0).normal(size=label.shape).astype(np.float32), np.eye(4))
    soft, weight = on_grid(crossed(label, 20, 20, 20), Planes((20, 20, 20)), frame_of(scan), 2)
    assert weight[17, 15, 20] == 1
    assert soft[1, 17, 15, 20] == 1
    assert weight[17, 15, 21:].sum() == 0
    # Halfway to the next voxel, a window still sees the plane's label.
    assert soft[1, 17, 15, 21] == 1
    assert soft[1, 17, 15, 25] == 0
    assert soft[1, 2, 3, 20] == 0


def test_the_study_gives_unannotated_voxels_no_weight(tmp_path: Path) -> None:
    scan, label = blobs()
    path = tmp_path / "x.nii.gz"
    cases = [Case("whole", path, path), Case("sparse", path, path), Case("said", path, path, "all")]
    spec = SpecialistSpec(("one", "two"), (4, 8), (4.0, 4.0, 4.0), (16, 16, 16))
    study = PreparedStudy(cases, LabelSchema(("one", "two")), spec, tmp_path)
    sparse = crossed(label, 14, 22, 18)
    for name, content in (("whole", label), ("sparse", sparse), ("said", sparse)):
        study.prepare(name, scan, frame_of(scan))
        study.keep_human(name, content, frame_of(scan))
    assert study.dense() == study.need_dense() == ["whole", "said"]
    weight = study.sample("sparse").weight
    assert 0 < (weight > 0).float().mean() < 0.35
    assert study.sample("whole").weight.min() == 1
    for name in ("whole", "said"):
        study.drop(name)
    with pytest.raises(UserError, match="recipe fm_abs") as error:
        study.need_dense()
    assert error.value.status == 409
