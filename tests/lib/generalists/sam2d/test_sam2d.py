"""2D models on volumes: features cover the scan, clicks on one slice segment in 3D, nothing is encoded twice."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace

import pytest
import torch
from scipy.ndimage import label as components
from torch import Tensor
from torch.nn import functional

from lib.core.errors import UserError
from lib.generalists import pace
from lib.generalists.base import Generalist, Promptable, Prompts
from lib.generalists.sam2d import MODELS, SliceGeneralist
from lib.generalists.sam2d.session import SliceSession
from lib.generalists.slices import Canvas, View, acquisition_view, choose_views, window

ISO = (2.0, 2.0, 2.0)
NO_POINTS = (torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool))


class Flood:
    """In place of a network: floods what is bright from the places it is pointed at. Images of 64 pixels.

    Args:
        score: what it says of each answer.
        fits: images that fit into its memory.
    """

    size, patch = 64, 4

    def __init__(self, score: float = 0.9, fits: int = 1000) -> None:
        self.score, self.fits = score, fits
        self.batches: list[int] = []
        self.asked: list[dict[str, object]] = []

    def features(self, images: Tensor) -> Tensor:
        if len(images) > self.fits:
            raise torch.cuda.OutOfMemoryError("too many")
        self.batches.append(len(images))
        return functional.pixel_unshuffle(images[:, :1], self.patch)

    def masks(
        self,
        features: Tensor,
        points: Tensor | None,
        positive: Tensor | None,
        box: Tensor | None,
        mask: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        self.asked.append({"points": points, "positive": positive, "box": box, "mask": mask, "several": several})
        image = functional.pixel_shuffle(features[None], self.patch)[0, 0]
        parts = torch.from_numpy(components((image > 0.5).numpy())[0])
        chosen: set[int] = set()
        if points is not None and positive is not None:
            at = points.round().long().clamp(0, 63)
            values = parts[at[:, 1], at[:, 0]]
            chosen = set(values[positive].tolist()) - set(values[~positive].tolist())
        elif box is not None:
            x0, y0, x1, y1 = (max(0, round(v)) for v in box.tolist())
            chosen = set(parts[y0 : y1 + 1, x0 : x1 + 1].unique().tolist())
        elif mask is not None:
            chosen = set(parts[mask > 0].unique().tolist())
        inside = torch.isin(parts, torch.tensor(sorted(chosen - {0}), dtype=parts.dtype))
        if box is not None:
            x, y = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="xy")
            inside &= (x >= box[0] - 0.5) & (x <= box[2] + 0.5) & (y >= box[1] - 0.5) & (y <= box[3] + 0.5)
        answers = (inside[None].float() * 12 - 6).expand(3 if several else 1, 64, 64)
        return answers, torch.full((len(answers),), self.score)


def model(network: Flood, name: str = "sam_vit_b", **options: object) -> SliceGeneralist:
    """A generalist whose images are left in 0..1."""
    plain = replace(MODELS[name], mean=None, deviation=None)
    return SliceGeneralist(plain, network, **options)  # type: ignore[arg-type]


def balls(
    *centres: tuple[float, float, float], radius: float = 9.0, shape: tuple[int, int, int] = (48, 40, 44)
) -> Tensor:
    """Bright balls in a dim volume, ``[1, *shape]``."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in shape], indexing="ij"), dim=-1)
    image = torch.full(shape, 100.0)
    for centre in centres:
        image[((grid - torch.tensor(centre)) ** 2).sum(-1) < radius**2] = 700.0
    image[0, 0, 0] = 0.0  # the background proper
    return image[None]


def clicks(*places: tuple[float, float, float], positive: tuple[bool, ...] | None = None) -> Prompts:
    return Prompts(torch.tensor(places), torch.tensor(positive or [True] * len(places)))


def overlap(answer: Tensor, truth: Tensor) -> float:
    """Dice."""
    a, b = answer > 0.5, truth > 0.5
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def bright(image: Tensor) -> Tensor:
    return (image[0] > 400).float()


# --- Slices ---


def test_slices_lie_as_radiologists_look_at_them() -> None:
    volume = torch.zeros(5, 6, 7)
    volume[4, 5, 6] = 1.0  # right, anterior, superior
    assert float(View(2).stack(volume)[6, 0, 0]) == 1  # axial: anterior up, right on the left
    assert float(View(1).stack(volume)[5, 0, 0]) == 1  # coronal: superior up, right on the left
    assert float(View(0).stack(volume)[4, 0, 0]) == 1  # sagittal: superior up, anterior on the left
    assert View(2).stack(volume).shape == (7, 6, 5)
    assert View(1).stack(volume).shape == (6, 7, 5)
    assert View(0).stack(volume).shape == (5, 7, 6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_and_places_go_there_and_back(axis: int) -> None:
    view, volume = View(axis), torch.rand(2, 5, 6, 7)
    torch.testing.assert_close(view.volume(view.stack(volume)), volume)
    voxel = torch.tensor([[1.0, 4.0, 2.0]])
    n, row, column = view.points(voxel, (5, 6, 7))[0].long().tolist()
    assert float(view.stack(volume)[0, n, row, column]) == float(volume[0, 1, 4, 2])


def test_thick_slices_are_seen_in_their_own_plane_only() -> None:
    assert acquisition_view((1, 1, 5)) == View(2)
    assert acquisition_view((1, 5, 1)) == View(1)
    assert acquisition_view((5, 1, 1)) == View(0)
    assert acquisition_view((1.0, 1.001, 1.0)) == View(2)
    assert choose_views((0.8, 5.0, 0.8), "auto") == (View(1),)
    assert choose_views((1, 1, 1.5), "auto") == (View(2), View(1), View(0))
    assert choose_views((1, 1, 1.5), "one") == (View(2),)
    assert choose_views((1, 1, 5), "three") == (View(2), View(1), View(0))


@pytest.mark.parametrize(
    ("rows", "columns", "row_mm", "column_mm", "expected"),
    [
        (100, 100, 1.0, 1.0, (1024, 1024)),
        (100, 50, 1.0, 1.0, (1024, 512)),
        (100, 50, 1.0, 2.0, (1024, 1024)),
        (50, 200, 3.0, 1.0, (768, 1024)),
        (3, 500, 1.0, 1.0, (16, 1024)),
        (512, 512, 0.7, 0.5, (1024, 736)),
    ],
)
def test_canvas_keeps_the_proportions_in_millimetres(
    rows: int, columns: int, row_mm: float, column_mm: float, expected: tuple[int, int]
) -> None:
    canvas = Canvas.of(rows, columns, row_mm, column_mm, 1024, 16)
    assert (canvas.height, canvas.width) == expected
    assert canvas.scaled(torch.rand(2, rows, columns)).shape == (2, *expected)
    assert canvas.padded(torch.rand(2, 3, *expected)).shape == (2, 3, 1024, 1024)


def test_a_place_on_a_slice_is_found_on_the_canvas() -> None:
    canvas = Canvas.of(20, 30, 2.0, 1.0, 1024, 16)
    slice_ = torch.zeros(1, 20, 30)
    slice_[0, 7, 11] = 1.0
    weights = canvas.scaled(slice_)[0]
    rows, columns = torch.meshgrid(*[torch.arange(n).float() for n in weights.shape], indexing="ij")
    middle = torch.stack([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
    torch.testing.assert_close(canvas.pixels(torch.tensor([[7.0, 11.0]]))[0], middle, atol=0.01, rtol=0)
    whole = canvas.box(torch.tensor([0.0, 0.0]), torch.tensor([19.0, 29.0]))
    torch.testing.assert_close(whole, torch.tensor([-0.5, -0.5, canvas.width - 0.5, canvas.height - 0.5]))


def test_window_ignores_outliers_and_the_background() -> None:
    volume = torch.zeros(30, 30, 30)
    volume[10:20] = torch.linspace(100, 200, 9000).view(10, 30, 30)
    volume[15, 0, 0] = 1e6
    result = window(volume)
    assert float(result[:10].max()) == 0
    assert float(result[15, 0, 0]) == 1
    assert float(result[15, 15, 15]) == pytest.approx(0.55, abs=0.02)
    torch.testing.assert_close(window(volume * 3 - 500), result, atol=1e-4, rtol=0)
    torch.testing.assert_close(window(torch.full((4, 4, 4), 7.0)), torch.zeros(4, 4, 4))
    two = torch.zeros(4, 4, 4)
    two[1] = 3.0
    torch.testing.assert_close(window(two), two / 3)


# --- Features ---


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((48, 40, 44), ISO),
        ((40, 48, 9), (1.0, 1.0, 5.0)),
        ((9, 60, 48), (5.0, 0.8, 0.8)),
        ((40, 7, 30), (1.0, 6.0, 1.0)),
    ],
)
def test_features_cover_the_scan_from_edge_to_edge(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    """A ramp along each axis is the same ramp in the features."""
    generalist = model(Flood(), max_slices=1000)
    assert isinstance(generalist, Generalist)
    for axis in range(3):
        across = [1, 1, 1]
        across[axis] = shape[axis]
        ramp = ((torch.arange(shape[axis]) + 0.5) / shape[axis]).view(across).expand(shape)
        image = ramp[None] * 400 + 20
        image[0, 0, 0, 0] = 0.0  # the background proper
        features = generalist.encode(image, spacing)
        assert features.dtype == torch.float32
        grid = features.shape[1:]
        assert all(1 <= g <= n for g, n in zip(grid, shape, strict=True))
        others = [1 + a for a in range(3) if a != axis]
        seen = features.mean(0, keepdim=True).mean(others).flatten()
        low, high = (float(torch.quantile(ramp.flatten(), q)) for q in (0.005, 0.995))
        expected = ((torch.arange(grid[axis]) + 0.5) / grid[axis] - low) / (high - low)
        torch.testing.assert_close(seen, expected.clamp(0, 1), atol=0.06, rtol=0)


def test_constant_scan_and_single_slice_have_finite_features() -> None:
    for image in (torch.full((1, 12, 10, 8), 5.0), torch.rand(1, 20, 16, 1), torch.rand(1, 1, 16, 20)):
        features = model(Flood()).encode(image, ISO)
        assert bool(torch.isfinite(features).all())
        assert features.shape[1:] == image.shape[1:] or features[0].numel() < image.numel()


def test_number_of_encoded_slices_is_bounded_and_fits_the_feature_size() -> None:
    image = balls((20, 20, 20))
    network = Flood()
    model(network, max_slices=12).encode(image, ISO)
    assert sum(network.batches) == 12  # four in each of three views
    network = Flood()
    generalist = model(network, max_slices=1000, views="one")
    features = generalist.encode(image, ISO)
    # 16 features over 48 voxels in a slice: one in three slices.
    assert sum(network.batches) == generalist.encoded == features.shape[3] == 15
    assert features.shape == (16, 16, 13, 15)
    assert "one" in generalist.preprocessing


def test_what_the_networks_see() -> None:
    """SAM gets colours by mean and deviation with padding 0 after that, MedSAM 0..1."""
    image = (torch.rand(1, 32, 16, 20, generator=torch.Generator().manual_seed(0)) > 0.5).float() * 900
    image = image.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :32, :16]  # even patches keep the extremes
    seen: list[Tensor] = []

    class Look(Flood):
        def features(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().features(images)

    for name in ("sam_vit_b", "medsam", "lite_medsam"):
        SliceGeneralist(MODELS[name], Look(), views="one").encode(image, ISO)
        assert seen[-1].shape[1:] == (3, 64, 64)
        assert bool((seen[-1][..., 32:, :] == 0).all())  # 16 rows to 32 columns
        assert bool((seen[-1][..., :32, :].abs().sum((1, 2, 3)) > 0).all())
    sam, medsam, lite = seen[:: len(seen) // 3]
    assert torch.equal(lite, medsam)
    assert 0 <= float(medsam.min()) <= float(medsam.max()) <= 1
    assert float(sam[:, 0].min()) == pytest.approx(-123.675 / 58.395, abs=0.3)
    assert float(sam[:, 2].max()) == pytest.approx((255 - 103.53) / 57.375, abs=0.3)


def test_boxes_models_see_every_slice_from_dark_to_bright() -> None:
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    image[..., 1] = image[..., 1] * 0.1 + 0.4
    image[..., 2] = 0.3
    seen: list[Tensor] = []

    class Look(Flood):
        def features(self, images: Tensor) -> Tensor:
            seen.extend(images)
            return super().features(images)

    SliceGeneralist(MODELS["lite_medsam"], Look(), views="one").encode(image, (1.0, 1.0, 20.0))
    ends = [(round(float(s.min()), 3), round(float(s.max()), 3)) for s in seen]
    assert ends == [(0.0, 1.0), (0.0, 1.0), (0.0, 0.0)]
    seen.clear()
    SliceGeneralist(MODELS["mobile_sam"], Look(), views="one").encode(image, (1.0, 1.0, 20.0))
    assert float(seen[1].max() - seen[1].min()) < 0.3 * float(seen[0].max() - seen[0].min())


def test_smaller_batches_when_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    image = balls((20, 20, 20))
    network = Flood(fits=2)
    generalist = model(network, batch=8, views="one")
    with caplog.at_level(logging.WARNING):
        features = generalist.encode(image, ISO)
    assert max(network.batches) == 2
    assert generalist.batch == 2
    assert sum(network.batches) == 15
    assert "out of memory" in caplog.text
    torch.testing.assert_close(features, model(Flood(), views="one").encode(image, ISO))
    with pytest.raises(UserError, match=r"does not suffice for sam_vit_b.*choose another") as caught:
        model(Flood(fits=0), batch=4).encode(image, ISO)
    assert caught.value.status == 507


def test_a_slow_cpu_is_told_of_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    image = balls((20, 20, 20))

    class Slow(Flood):
        def features(self, images: Tensor) -> Tensor:
            time.sleep(0.02)
            return super().features(images)

    with caplog.at_level(logging.WARNING):
        model(Slow(), max_slices=6).encode(image, ISO)
        assert not caplog.records  # a scan takes a fraction of a second
        monkeypatch.setattr(pace, "LONG_SECONDS", 0.1)
        generalist = model(Slow(), max_slices=6)
        generalist.encode(image, ISO)
        generalist.open(image, ISO).segment(clicks((20, 20, 20)))
    assert len(caplog.records) == 1
    found = re.search(r"took ([\d.]+) s .* up to 6 slices, so about ([\d.]+) s a scan", caplog.text)
    assert found is not None, caplog.text


# --- Prompts ---


@pytest.mark.parametrize("spacing", [ISO, (1.0, 1.0, 3.0), (3.0, 1.0, 1.0), (1.0, 2.5, 1.0)])
def test_one_click_segments_in_3d(spacing: tuple[float, float, float]) -> None:
    image = balls((20, 18, 21), (38, 30, 34), radius=8)
    generalist = model(Flood())
    assert isinstance(generalist, Promptable)
    session = generalist.open(image, spacing)
    answer = session.segment(clicks((20, 18, 21)))
    truth = bright(balls((20, 18, 21), radius=8))
    assert answer.shape == image.shape[1:]
    assert answer.dtype == torch.float32
    assert float(answer.min()) >= 0
    assert float(answer.max()) <= 1
    assert overlap(answer, truth) > 0.9
    assert float(answer[38, 30, 34]) < 0.01


def test_the_second_click_encodes_nothing() -> None:
    image = balls((20, 18, 21))
    generalist = model(Flood())
    session = generalist.open(image, ISO)
    assert generalist.encoded == 0
    first = session.segment(clicks((20, 18, 21)))
    done = generalist.encoded
    assert 0 < done < 20
    again = session.segment(clicks((20, 18, 21), (22, 19, 21)))
    assert generalist.encoded == done
    torch.testing.assert_close(session.segment(clicks((20, 18, 21))), first, rtol=0, atol=0)
    assert overlap(again, bright(image)) > 0.9
    # A click elsewhere in the structure shares all slices but its own.
    session.segment(clicks((20, 18, 20)))
    assert generalist.encoded <= done + 1


def test_kept_features_are_bounded() -> None:
    image = balls((20, 18, 21))
    generalist = model(Flood())
    session = SliceSession(generalist, window(image[0]), ISO, kept=3)
    answer = session.segment(clicks((20, 18, 21)))
    # Slices; in half floats, 16 channels on a grid of 16, and answers of 64 x 64.
    assert session.bytes == image.nbytes + 3 * 16 * 16**2 * 2 + 3 * 64**2 * 2
    assert overlap(answer, bright(image)) > 0.9


def test_clicks_on_two_structures_give_both() -> None:
    image = balls((12, 12, 14), (35, 28, 30), radius=7)
    answer = model(Flood()).open(image, ISO).segment(clicks((12, 12, 14), (35, 28, 30)))
    assert overlap(answer, bright(image)) > 0.85


def test_a_negative_click_takes_a_structure_away() -> None:
    image = balls((12, 12, 20), (35, 28, 20), radius=8)
    session = model(Flood()).open(image, ISO)
    both = session.segment(clicks((12, 12, 20), (35, 28, 20)))
    assert overlap(both, bright(image)) > 0.9
    one = session.segment(clicks((12, 12, 20), (35, 28, 20), positive=(True, False)))
    assert overlap(one, bright(balls((12, 12, 20), radius=8))) > 0.9
    assert float(one[35, 28, 20]) < 0.01


def test_a_negative_click_ends_the_structure_on_its_slice() -> None:
    image = torch.full((1, 40, 40, 40), 100.0)
    image[0, 15:25, 15:25, :] = 700.0  # a rod from end to end
    image[0, 0, 0, 0] = 0.0
    session = model(Flood()).open(image, ISO)
    whole = session.segment(clicks((20, 20, 20)))
    assert overlap(whole, bright(image)) > 0.9
    prompts = clicks((20, 20, 20), (20, 20, 30), positive=(True, False))
    assert float(session.segment(prompts)[..., 30:].max()) < 0.01
    cut = session.segment(replace(prompts, mask=whole))
    assert float(cut[..., 30:].max()) < 0.01
    assert float(cut[20, 20, :28].min()) > 0.9


def test_only_negative_clicks_segment_nothing() -> None:
    session = model(Flood()).open(balls((20, 18, 21)), ISO)
    assert float(session.segment(clicks((20, 18, 21), positive=(False,))).max()) == 0


@pytest.mark.parametrize("name", ["sam_vit_b", "medsam", "lite_medsam"])
def test_a_box_bounds_the_answer(name: str) -> None:
    image = balls((20, 18, 21), (38, 30, 34), radius=8)
    box = torch.tensor([[12.0, 10.0, 16.0], [28.0, 26.0, 27.0]])
    answer = model(Flood(), name).open(image, ISO).segment(Prompts(*NO_POINTS, box=box))
    truth = bright(balls((20, 18, 21), radius=8))
    assert overlap(answer[..., 16:28], truth[..., 16:28]) > 0.9
    assert float(answer[..., :16].max()) == 0
    assert float(answer[..., 28:].max()) == 0
    narrow = torch.tensor([[12.0, 10.0, 16.0], [20.0, 26.0, 27.0]])
    answer = model(Flood(), name).open(image, ISO).segment(Prompts(*NO_POINTS, box=narrow))
    assert float(answer[20].max()) > 0.5
    assert float(answer[21:].max()) == 0


@pytest.mark.parametrize("name", ["sam_vit_b", "medsam", "lite_medsam"])
def test_a_mask_alone_is_refined_where_it_is(name: str) -> None:
    image = balls((20, 18, 21))
    truth = bright(image)
    rough = bright(balls((20, 18, 21), radius=7))
    network = Flood()
    answer = model(network, name).open(image, ISO).segment(Prompts(*NO_POINTS, mask=rough))
    assert float(answer[..., (rough == 0).all(0).all(0)].max()) == 0
    if name == "sam_vit_b":
        assert overlap(answer, truth) > overlap(rough, truth)
    assert all((asked["mask"] is not None) == (name == "sam_vit_b") for asked in network.asked)
    assert all(asked["box"] is not None for asked in network.asked)


@pytest.mark.parametrize("name", ["sam_vit_b", "medsam"])
def test_boxes_around_a_mask_are_asked_about_without_the_mask(name: str) -> None:
    image = balls((14, 20, 22), (34, 20, 22))
    network = Flood()
    mask = functional.max_pool3d(bright(image)[None], 3, stride=1, padding=1)[0]
    mask[24:] = 0  # of the first ball only
    found = model(network, name).open(image, ISO).segment_by_boxes(mask)
    assert overlap(found[:24], bright(image)[:24]) > 0.9
    assert not (found[24:] > 0.5).any()
    for asked in network.asked:
        assert (asked["points"], asked["mask"]) == (None, None)
    across = {tuple(box.tolist()) for box in (asked["box"] for asked in network.asked) if isinstance(box, Tensor)}
    assert len(across) > 1  # each slice has its own


def test_what_was_segmented_stays_where_nothing_is_carried_to() -> None:
    image = balls((12, 12, 10), (35, 28, 33), radius=7)
    before = bright(balls((35, 28, 33), radius=7))
    prompts = replace(clicks((12, 12, 10)), mask=before)
    answer = model(Flood()).open(image, ISO).segment(prompts)
    assert overlap(answer, bright(image)) > 0.85


def test_carrying_ends_where_the_network_is_unsure() -> None:
    image = balls((20, 18, 21))
    network = Flood(score=0.2)
    answer = model(network).open(image, ISO).segment(clicks((20, 18, 21)))
    assert len(network.asked) == 3  # the click's slice and one on either side
    assert float(answer[20, 18, 21]) > 0.9
    assert float(answer[20, 18, 26]) < 0.01
    # MedSAM's score says nothing.
    assert (
        overlap(model(Flood(score=0.0), "medsam").open(image, ISO).segment(clicks((20, 18, 21))), bright(image)) > 0.8
    )


def test_carrying_ends_where_the_area_jumps() -> None:
    image = torch.full((1, 40, 40, 40), 100.0)
    image[0, 17:23, 17:23, 10:21] = 700.0
    image[0, 4:36, 4:36, 21:] = 700.0
    image[0, 0, 0, 0] = 0.0
    network = Flood()
    network_model = model(network)
    # Without the box around the neighbour's mask, the flood would take the whole plate.
    answer = network_model.open(image, ISO).segment(clicks((20, 20, 15)))
    assert float(answer[6, 6, 25:].max()) < 0.01
    assert float(answer[20, 20, 11:20].min()) > 0.5


def test_what_the_network_is_asked() -> None:
    image = balls((20, 18, 21))
    network = Flood()
    model(network).open(image, ISO).segment(clicks((20, 18, 21)))
    first, second = network.asked[:2]
    assert first["several"]  # one click may mean a part or the whole
    assert first["box"] is None
    assert first["mask"] is None
    assert not second["several"]
    assert second["box"] is not None
    assert second["mask"] is not None
    # The ball's middle on a canvas of 64 pixels for 48 voxels; rows and columns run against the axes.
    expected = torch.tensor([[(47 - 20 + 0.5) * 64 / 48 - 0.5, (39 - 18 + 0.5) * 52 / 40 - 0.5]])
    torch.testing.assert_close(first["points"], expected, atol=0.05, rtol=0)
    torch.testing.assert_close(second["points"], expected, atol=2.0, rtol=0)


def test_medsam_is_only_given_boxes() -> None:
    image = balls((20, 18, 21))
    network = Flood()
    generalist = model(network, "medsam")
    assert generalist.prompts == {"box"}
    spacing = (3.0, 3.0, 3.0)
    answer = generalist.open(image, spacing).segment(clicks((20, 18, 21)))
    assert overlap(answer, bright(image)) > 0.85
    assert all(a["points"] is None and a["mask"] is None and a["box"] is not None for a in network.asked)
    box = network.asked[0]["box"]
    assert isinstance(box, Tensor)
    pixel = 48 * 3 / 64
    torch.testing.assert_close((box[2:] - box[:2]) * pixel, torch.tensor([40.0, 40.0]), atol=1.5, rtol=0)
    # A negative click lies outside the box, the positive one inside.
    network.asked.clear()
    generalist.open(image, spacing).segment(clicks((20, 18, 21), (24, 18, 21), positive=(True, False)))
    box = network.asked[0]["box"]
    assert isinstance(box, Tensor)
    place, other = ((47 - x + 0.5) * 64 / 48 - 0.5 for x in (20, 24))
    assert float(box[0]) < place < float(box[2])
    assert not float(box[0]) <= other <= float(box[2])


def test_prompts_that_cannot_be_meant_are_refused() -> None:
    session = model(Flood()).open(balls((20, 18, 21)), ISO)
    with pytest.raises(UserError, match="Click inside the structure"):
        session.segment(Prompts(*NO_POINTS))
    for place in ((48.0, 5.0, 5.0), (5.0, -1.0, 5.0), (float("nan"), 5.0, 5.0)):
        with pytest.raises(UserError, match="outside the scan"):
            session.segment(clicks(place))
    for box in ([[5.0, 5, 5], [4, 9, 9]], [[60.0, 0, 0], [70, 5, 5]], [[-9.0, 0, 0], [-2, 5, 5]]):
        with pytest.raises(UserError, match="box does not lie inside the scan"):
            session.segment(Prompts(*NO_POINTS, box=torch.tensor(box)))
    assert float(session.segment(clicks((47.4, -0.4, 0.0))).max()) <= 1


def test_an_empty_mask_is_no_hint() -> None:
    session = model(Flood()).open(balls((20, 18, 21)), ISO)
    plain = session.segment(clicks((20, 18, 21)))
    hinted = session.segment(replace(clicks((20, 18, 21)), mask=torch.zeros(48, 40, 44)))
    torch.testing.assert_close(plain, hinted)
    with pytest.raises(UserError, match="Click inside the structure"):
        session.segment(Prompts(*NO_POINTS, mask=torch.zeros(48, 40, 44)))
    with pytest.raises(UserError, match="Give a mask of the same scan"):
        session.segment(Prompts(*NO_POINTS, mask=torch.ones(48, 40, 43)))


def test_single_slice_scans_work() -> None:
    image = torch.full((1, 30, 30, 1), 100.0)
    image[0, 10:20, 10:20] = 700.0
    image[0, 0, 0] = 0.0
    answer = model(Flood()).open(image, (1.0, 1.0, 8.0)).segment(clicks((15, 15, 0)))
    assert overlap(answer, bright(image)) > 0.9
