"""SAM-Med3D on scans of any size: features that lie where they belong, answers to clicks, refusals."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lib.core.errors import UserError
from lib.core.filters import box_mean
from lib.generalists.base import Generalist, Promptable, Prompts
from lib.generalists.sam3d import SamMed3d, build, random_state
from lib.generalists.sam3d.intensity import clamp_ct, statistics
from lib.generalists.sam3d.network import Sam3d
from lib.generalists.sam3d.windows import cut, tile
from lib.generalists.states import load_strictly
from tiny_sam3d import TINY, tiny

MM = (1.5, 1.5, 1.5)


def scan(*shape: int, seed: int = 0) -> Tensor:
    return box_mean(torch.rand((1, *shape), generator=torch.Generator().manual_seed(seed)), 1) * 800


def clicks(*points: tuple[float, float, float], positive: tuple[bool, ...] | None = None, **more: Tensor) -> Prompts:
    marks = positive if positive is not None else (True,) * len(points)
    return Prompts(
        torch.tensor(points, dtype=torch.float32).reshape(-1, 3), torch.tensor(marks, dtype=torch.bool), **more
    )


class Means(SamMed3d):
    """Its features are the mean intensities of the patches, so that one sees where they lie."""

    def encode_cubes(self, cubes: Tensor) -> Tensor:
        self.encoded += len(cubes)
        return functional.avg_pool3d(cubes, TINY.patch).expand(-1, TINY.channels, -1, -1, -1)


# Features


def test_is_a_generalist_that_takes_clicks_and_masks() -> None:
    model = tiny()
    assert isinstance(model, Generalist)
    assert isinstance(model, Promptable)
    assert model.prompts == {"points", "mask"}


@pytest.mark.parametrize(
    ("shape", "spacing", "grid", "cubes"),
    [
        ((32, 32, 32), MM, (4, 4, 4), 1),
        ((40, 40, 3), (0.75, 0.75, 5.0), (3, 3, 2), 1),  # thin, anisotropic
        ((48, 40, 16), (3.0, 1.5, 1.5), (12, 5, 2), 8),  # larger than a cube along two axes
        ((1, 20, 20), MM, (1, 3, 3), 1),  # one slice
        ((2, 2, 2), (0.1, 0.1, 0.1), (1, 1, 1), 1),  # smaller than a voxel of the model
    ],
)
def test_features_of_any_scan(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], grid: tuple[int, int, int], cubes: int
) -> None:
    model = tiny()
    features = model.encode(scan(*shape), spacing)
    assert features.shape == (TINY.channels, *grid)
    assert features.dtype == torch.float32
    assert bool(features.isfinite().all())
    assert model.encoded == cubes


@pytest.mark.parametrize(
    ("length", "spacing"), [(32, 1.5), (16, 1.5), (8, 6.0), (80, 1.5), (72, 1.5), (200, 0.75), (150, 1.5)]
)
def test_features_lie_where_the_intensities_are(length: int, spacing: float) -> None:
    """Along a scan of steadily rising intensity a feature is the intensity at its place, seams included."""
    ramp = torch.arange(length, dtype=torch.float32)[None, :, None, None].expand(1, -1, 32, 32) + 100
    features = tiny(kind=Means).encode(ramp, (spacing, 1.5, 1.5))[0, :, 1, 1]
    mean, deviation = statistics(ramp)
    places = (torch.arange(len(features)) + 0.5) * length / len(features) - 0.5
    found = features * deviation + mean - 100
    # The two ends may be patches that lie half beyond the scan.
    torch.testing.assert_close(found[1:-1], places[1:-1], atol=0.02 * length, rtol=0)


def test_identical_cubes_blend_to_themselves() -> None:
    model = tiny(kind=Means)
    features = model.encode(torch.full((1, 70, 50, 40), 7.0), MM)
    torch.testing.assert_close(features[0, 2:-2, 2:-2, 2:-2], torch.zeros_like(features[0, 2:-2, 2:-2, 2:-2]))
    assert model.encoded > 8


def test_tiles_cover_the_scan_and_overlap() -> None:
    for length in range(1, 200, 7):
        starts = sorted({start[0] for start in tile((length, 1, 1), 32, 8)})
        assert starts[0] <= 0
        assert starts[-1] + 32 >= length
        assert all(b - a <= 24 for a, b in pairwise(starts))


def test_cubes_beyond_the_scan_are_filled_with_zeros() -> None:
    cube = cut(torch.ones(1, 4, 40, 4), (-2, 20, 1), 32)
    assert cube.shape == (1, 32, 32, 32)
    assert float(cube.sum()) == 4 * 20 * 3


def test_intensity_scale_plays_no_part_and_ct_is_limited() -> None:
    model = tiny()
    image = scan(20, 20, 20)
    torch.testing.assert_close(model.encode(image, MM), model.encode(image * 37, MM), atol=1e-4, rtol=1e-4)
    ct = torch.tensor([-3024.0, -1000.0, 40.0, 3000.0])
    assert clamp_ct(ct).tolist() == [-1000.0, -1000.0, 40.0, 1000.0]
    mr = torch.tensor([-20.0, 0.0, 3000.0])
    assert clamp_ct(mr).tolist() == mr.tolist()


@pytest.mark.parametrize("value", [0.0, 5.0, -700.0, float("nan")])
def test_constant_scans_have_finite_features(value: float) -> None:
    assert bool(tiny().encode(torch.full((1, 8, 8, 8), value), MM).isfinite().all())


def test_batches_change_nothing_and_shrink_when_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = scan(60, 40, 20)
    expected = tiny(batch=1).encode(image, MM)
    model = tiny(batch=8)
    torch.testing.assert_close(model.encode(image, MM), expected, atol=1e-4, rtol=1e-4)

    honest = model.network.encode
    limit = 1

    def small(cubes: Tensor) -> Tensor:
        if len(cubes) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return honest(cubes)

    monkeypatch.setattr(model.network, "encode", small)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(model.encode(image, MM), expected, atol=1e-4, rtol=1e-4)
    assert "1 cubes at a time" in caplog.text
    limit = 0
    with pytest.raises(UserError, match="memory"):
        model.encode(image, MM)


# Clicks


def test_every_click_changes_the_answer() -> None:
    session = tiny().open(scan(30, 28, 26), MM)
    one = session.segment(clicks((15, 14, 13)))
    assert one.shape == (30, 28, 26)
    assert one.dtype == torch.float32
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    two = session.segment(clicks((15, 14, 13), (20, 20, 20)))
    other = session.segment(clicks((15, 14, 13), (20, 20, 20), positive=(True, False)))
    assert not torch.allclose(one, two, atol=1e-4)
    assert not torch.allclose(two, other, atol=1e-4)


def test_mask_so_far_changes_the_answer() -> None:
    session = tiny().open(scan(30, 28, 26), MM)
    mask = torch.zeros(30, 28, 26)
    mask[10:20, 8:18, 8:18] = 1
    alone, with_mask = session.segment(clicks((15, 14, 13))), session.segment(clicks((15, 14, 13), mask=mask))
    assert not torch.allclose(alone, with_mask, atol=1e-4)
    assert session.segment(clicks(mask=mask)).shape == mask.shape


def test_a_scan_is_encoded_once_for_clicks_that_lie_together() -> None:
    model = tiny()
    session = model.open(scan(100, 40, 32), MM)
    assert model.encoded == 0
    first = session.segment(clicks((50, 20, 16)))
    session.segment(clicks((50, 20, 16), (54, 21, 10), (44, 15, 30), positive=(True, False, True)))
    assert model.encoded == 1
    session.segment(clicks((50, 20, 16), (90, 20, 16)))  # far away: one more cube
    assert model.encoded == 2
    # The same prompts have the same answer, whatever was asked in between.
    assert torch.equal(session.segment(clicks((50, 20, 16))), first)
    assert torch.equal(model.open(scan(100, 40, 32), MM).segment(clicks((50, 20, 16))), first)


def test_nothing_beyond_the_cube_but_the_mask_so_far() -> None:
    session = tiny().open(scan(100, 32, 32), MM)
    answer = session.segment(clicks((16, 16, 16)))
    assert float(answer[:32].min()) > 0
    assert float(answer[32:].max()) == 0
    mask = torch.zeros(100, 32, 32)
    mask[20:90, 10:20, 10:20] = 1
    kept = session.segment(clicks((16, 16, 16), mask=mask))
    assert torch.equal(kept[32:], mask[32:])
    assert float(session.segment(clicks(mask=mask))[20:90].min()) > 0


class Near(SamMed3d):
    """Answers with a ball of 5 voxels around the latest click."""

    def answer(self, features: Tensor, points: Tensor | None, positive: Tensor | None, mask: Tensor | None) -> Tensor:
        assert points is not None
        steps = (torch.arange(TINY.mask) + 0.5) * TINY.image / TINY.mask - 0.5
        grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1)
        return 4 * (5 - (grid - points[-1]).norm(dim=-1))[None]


@pytest.mark.parametrize(
    ("shape", "spacing", "click"),
    [
        ((32, 32, 32), MM, (10, 16, 20)),
        ((100, 40, 30), (0.75, 1.5, 1.5), (70, 9, 21)),
        ((60, 60, 8), (0.75, 0.75, 6.0), (33, 20, 3)),
        ((30, 31, 33), (3.0, 3.0, 3.0), (25, 7, 12)),
    ],
)
def test_masks_lie_where_the_click_was(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], click: tuple[int, int, int]
) -> None:
    answer = tiny(kind=Near).open(scan(*shape), spacing).segment(clicks(click))
    centre = torch.nonzero(answer > 0.5).float().mean(0)
    assert float(((centre - torch.tensor(click)) * torch.tensor(spacing)).abs().max()) < 0.8
    radius = (3 * float((answer > 0.5).sum() * torch.tensor(spacing).prod()) / (4 * torch.pi)) ** (1 / 3)
    assert abs(radius - 7.5) < 1.0


def test_a_box_is_a_click_at_its_centre_and_bounds_the_answer() -> None:
    session = tiny().open(scan(30, 28, 26), MM)
    answer = session.segment(clicks(box=torch.tensor([[10, 10, 10], [20, 18, 16]])))
    centre = session.segment(clicks((15, 14, 13)))
    torch.testing.assert_close(answer[10:21, 10:19, 10:17], centre[10:21, 10:19, 10:17])
    answer[10:21, 10:19, 10:17] = 0
    assert not bool(answer.any())


def test_only_negative_clicks_segment_nothing() -> None:
    model = tiny()
    assert not bool(model.open(scan(30, 28, 26), MM).segment(clicks((15, 14, 13), positive=(False,))).any())
    assert model.encoded == 0


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        (clicks(), "Click inside"),
        (clicks(mask=torch.zeros(30, 28, 26)), "Click inside"),
        (clicks((15, 28, 13)), "30 × 28 × 26"),
        (clicks((-1, 5, 5)), "outside the scan"),
        (clicks((5, 5, 5), mask=torch.zeros(3, 3, 3)), "3 × 3 × 3"),
        (clicks(box=torch.tensor([[0, 0, 0], [30, 5, 5]])), "box"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(prompts: Prompts, text: str) -> None:
    with pytest.raises(UserError, match=text):
        tiny().open(scan(30, 28, 26), MM).segment(prompts)


# Weights


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    one, same = random_state("sam_med3d", 1, TINY), random_state("sam_med3d", 1, TINY)
    assert all(torch.equal(one[key], same[key]) for key in one)
    key = "image_encoder.pos_embed"
    assert not torch.equal(one[key], random_state("sam_med3d", 2, TINY)[key])
    assert not torch.equal(one[key], random_state("segany_pet", 1, TINY)[key])


def test_weights_of_another_model_are_refused() -> None:
    # Another model's names, one missing, one of another shape: the text names them and the model.
    state = random_state("sam_med3d", 0, TINY)
    with pytest.raises(UserError, match="does not fit segany_pet") as refusal:
        build("segany_pet", {"encoder.weight": torch.zeros(3)})
    assert "image_encoder.pos_embed is missing" in str(refusal.value)
    assert refusal.value.status == 422
    with pytest.raises(UserError, match=r"pos_embed is \(3,\), not \(1, 4, 4, 4, 24\)"):
        load_strictly(Sam3d(TINY), "sam_med3d", {**state, "image_encoder.pos_embed": torch.zeros(3)})
    with pytest.raises(UserError, match=r"extra is not part of it\. Import"):
        load_strictly(Sam3d(TINY), "sam_med3d", {**state, "extra": torch.zeros(1)})


@pytest.mark.slow
def test_the_true_architecture_is_built_from_its_state() -> None:
    model = build("sam_med3d_turbo", {k: v.half() for k, v in random_state("sam_med3d_turbo", 0).items()})
    assert model.name == "sam_med3d_turbo"
    features = model.encode(scan(40, 40, 40), (4.0, 4.0, 4.0))
    assert features.shape == (384, 7, 7, 7)
    assert float(features.std(dim=(1, 2, 3)).mean()) > 0.01  # places differ
    answer = model.open(scan(40, 40, 40), (4.0, 4.0, 4.0)).segment(clicks((20, 20, 20)))
    assert answer.shape == (40, 40, 40)
