"""SAM 2.1 as a generalist. The networks have their true layers, random weights and small images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lib.core.errors import UserError
from lib.generalists.base import Generalist, Promptable, Prompts, SliceTracker
from lib.generalists.sam2video import Sam2Video
from lib.generalists.sam2video.tracker import Piece
from published_sam2 import Published, small_model

SIZE = 128


@pytest.fixture(scope="module")
def model() -> Sam2Video:
    return small_model(SIZE)


def ball(count: int = 20, rows: int = 40, columns: int = 30) -> tuple[Tensor, Tensor]:
    """A bright ball in noise, and its mask: ``[count, rows, columns]`` both."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) * 2 / n - 1 for n in (count, rows, columns)], indexing="ij"))
    inside = grid.square().sum(0) < 0.4
    noise = torch.randn(inside.shape, generator=torch.Generator().manual_seed(0))
    return inside * 500 + noise * 40, inside


def test_it_is_all_three_kinds(model: Sam2Video) -> None:
    assert isinstance(model, Generalist)
    assert isinstance(model, Promptable)
    assert isinstance(model, SliceTracker)
    assert model.prompts == {"points", "box", "mask"}


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_tracking_is_that_of_the_published_predictor(model: Sam2Video, reverse: bool) -> None:
    slices, inside = ball(20)
    at = (17, 18) if reverse else (1, 2)  # so long a way that old memories are dropped
    other = torch.roll(inside, 6, dims=1)
    masks = {n: torch.stack([inside[9], other[10]]) for n in at}
    own = model.track(model.encode_slices(slices), masks, reverse=reverse)
    published = Published(model)
    expected = published.track(published.encode_slices(slices), masks, reverse=reverse)
    assert own.shape == (20, 2, SIZE // 4, SIZE // 4)
    reached = slice(0, 19) if reverse else slice(1, 20)
    assert bool((own[reached] != -1024).all())
    # Each slice builds on the memory of those before: rounding, which depends on the threads, adds up (1e-5 to 1e-4).
    assert float((own - expected).abs().max() / expected[reached].abs().max()) < 1e-3
    assert float((own[reached.start : reached.stop] - own[at[0]]).abs().max()) > 0.1


def test_slices_not_reached_are_absent_and_prompted_ones_as_given(model: Sam2Video) -> None:
    slices, inside = ball(8)
    small = functional.interpolate(inside[4][None, None].float(), size=(17, 23))[0] > 0.5
    logits = model.track(model.encode_slices(slices), {3: small})
    assert bool((logits[:3] == -1024).all())
    given = functional.interpolate(inside[4][None, None].float(), size=(SIZE // 4, SIZE // 4))[0, 0] > 0.5
    assert float(((logits[3, 0] > 0) == given).float().mean()) > 0.95
    assert float(logits[3].abs().max()) <= 10.001


@pytest.mark.slow
def test_a_slice_is_encoded_once_for_any_number_of_sequences(model: Sam2Video) -> None:
    slices, inside = ball(6)
    pieces = list(model.encode_slices(slices))
    before = model.encoded
    first = model.track(pieces, {1: inside[3][None]})
    model.track(pieces, {1: inside[3][None]}, reverse=True)
    model.track(pieces[::-1], {2: inside[3][None]})
    assert torch.equal(model.track(pieces, {1: inside[3][None]}), first)
    assert model.encoded - before == 6
    unused = list(model.encode_slices(slices))
    before = model.encoded
    model.track(unused, {4: inside[3][None]})
    assert model.encoded - before == 2  # the two that can be reached


@pytest.mark.slow
def test_structures_do_not_influence_each_other(model: Sam2Video) -> None:
    slices, inside = ball(5)
    pieces = model.encode_slices(slices)
    masks = [inside[2], torch.roll(inside[2], 5, dims=0), torch.zeros_like(inside[2])]
    together = model.track(pieces, {1: torch.stack(masks)})
    for number, mask in enumerate(masks):
        assert torch.allclose(together[:, number], model.track(pieces, {1: mask[None]})[:, 0], atol=1e-3)
    assert bool((together[1, 2] < 0).all())


@pytest.mark.slow
def test_pieces_of_two_scans_make_one_sequence(model: Sam2Video) -> None:
    one, inside = ball(3)
    two, _ = ball(4, 50, 20)
    pieces = [*model.encode_slices(one), *model.encode_slices(two * 1000 + 5)]
    assert bool(model.track(pieces, {0: inside[1][None]}).isfinite().all())


@pytest.mark.slow
def test_smaller_batches_when_the_memory_runs_out(
    model: Sam2Video, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slices, inside = ball(4)
    masks = {0: inside[1:4]}
    expected = model.track(model.encode_slices(slices), masks)
    from_mask, levels = model.tracker.from_mask, model.image_levels

    def little(piece: Piece, known: Tensor) -> Any:
        if len(known) > 1:
            raise torch.OutOfMemoryError("not enough")
        return from_mask(piece, known)

    def few(images: Tensor) -> list[Tensor]:
        if len(images) > 1:
            raise torch.OutOfMemoryError("not enough")
        return levels(images)

    monkeypatch.setattr(model.tracker, "from_mask", little)
    monkeypatch.setattr(model, "image_levels", few)
    monkeypatch.setattr(model, "batch", 4)
    monkeypatch.setattr(model, "objects", 64)
    with caplog.at_level(logging.WARNING):
        logits = model.track(model.encode_slices(slices), masks)
    assert torch.allclose(logits, expected, atol=1e-3)
    assert (model.batch, model.objects) == (1, 1)
    assert "2 slices at a time" in caplog.text
    assert "1 structures at a time" in caplog.text

    def none(images: Tensor) -> list[Tensor]:
        raise torch.OutOfMemoryError("not enough")

    monkeypatch.setattr(model, "image_levels", none)
    with pytest.raises(UserError, match="does not suffice for medsam2"):
        model.track(model.encode_slices(slices), masks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "spacing", "grid"),
    [
        ((8, 10, 5), (2.0, 2.0, 2.0), (8, 10, 5)),  # no finer than the voxels
        ((40, 30, 4), (1.0, 1.0, 5.0), (32, 24, 4)),  # thick slices: looked at in their own plane
        ((1, 9, 2), (1.0, 1.0, 1.0), (1, 9, 2)),
    ],
)
def test_features_cover_the_scan(model: Sam2Video, shape: Any, spacing: Any, grid: Any) -> None:
    image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    before = model.encoded
    features = model.encode(image, spacing)
    assert features.shape == (256, *grid)
    assert features.dtype == torch.float32
    assert bool(features.isfinite().all())
    assert 0 < model.encoded - before <= model.max_slices


@pytest.mark.slow
def test_features_follow_the_orientation_and_not_the_scale(model: Sam2Video) -> None:
    slices, _ = ball(6, 6, 6)
    slices[:3] += 800  # something to tell the ends apart
    image = slices[None]
    features = model.encode(image, (1, 1, 1))
    assert torch.allclose(model.encode(image * 7 + 9000, (1, 1, 1)), features, atol=1e-3)
    ends = features.mean((2, 3))
    assert float((ends[:, 0] - ends[:, -1]).norm()) > 3 * float((ends[:, 0] - ends[:, 1]).norm())


def clicks(*places: tuple[float, float, float], positive: Sequence[bool] | None = None, **others: Any) -> Prompts:
    kinds = [True] * len(places) if positive is None else positive
    return Prompts(torch.tensor(places).reshape(-1, 3), torch.tensor(kinds, dtype=torch.bool), **others)


@pytest.fixture(scope="module")
def scan() -> Tensor:
    return ball(24, 20, 6)[0][None]


SPACING = (1.0, 1.0, 4.0)


@pytest.mark.slow
def test_a_click_is_answered_on_all_slices_and_the_next_encodes_nothing(model: Sam2Video, scan: Tensor) -> None:
    session = model.open(scan, SPACING)
    before = model.encoded
    answer = session.segment(clicks((12, 10, 3)))
    assert answer.shape == (24, 20, 6)
    assert float(answer.min()) >= 0
    assert float(answer.max()) <= 1
    assert 0 < model.encoded - before <= 6
    encoded = model.encoded - before
    before = model.encoded
    two = session.segment(clicks((12, 10, 3), (2, 2, 3), positive=[True, False]))
    assert model.encoded == before
    finest = 32 * (SIZE // 4) ** 2  # values of a slice's finest level; there are two coarser ones
    assert encoded * finest * 4 < session.bytes - scan.nbytes < encoded * finest * 4 * 2.5
    assert not torch.equal(answer, two)
    assert torch.equal(session.segment(clicks((12, 10, 3))), answer)


@pytest.mark.slow
def test_a_box_bounds_the_answer(model: Sam2Video, scan: Tensor) -> None:
    box = torch.tensor([[4, 5, 1], [19, 14, 4]])
    answer = model.open(scan, SPACING).segment(clicks(box=box))
    outside = torch.ones_like(answer, dtype=torch.bool)
    outside[4:20, 5:15, 1:5] = False
    assert bool((answer[outside] == 0).all())


@pytest.mark.slow
def test_a_mask_is_kept_on_its_slices(model: Sam2Video, scan: Tensor) -> None:
    mask = torch.zeros(24, 20, 6)
    mask[6:18, 5:15, 2] = 1
    answer = model.open(scan, SPACING).segment(clicks(mask=mask))
    assert float(((answer[..., 2] >= 0.5) == (mask[..., 2] >= 0.5)).float().mean()) > 0.9


@pytest.mark.slow
def test_a_negative_click_corrects_what_was_found_on_its_slice(model: Sam2Video, scan: Tensor) -> None:
    session = model.open(scan, SPACING)
    found = session.segment(clicks((12, 10, 3)))
    assert bool((found[..., 4] > 0.5).any())
    place = (found[..., 4] > 0.5).nonzero()[0].tolist()
    corrected = session.segment(clicks((12, 10, 3), (place[0], place[1], 4), positive=[True, False]))
    assert not torch.equal(corrected[..., 4], found[..., 4])


def test_only_negative_clicks_segment_nothing(model: Sam2Video, scan: Tensor) -> None:
    answer = model.open(scan, SPACING).segment(clicks((12, 10, 3), positive=[False]))
    assert float(answer.abs().max()) == 0


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        (clicks(), "nothing to go by"),
        (clicks(mask=torch.zeros(24, 20, 6)), "nothing to go by"),
        (clicks((30, 3, 3)), "outside the scan"),
        (clicks(mask=torch.ones(3, 3, 3)), "mask of the same scan"),
        (clicks(box=torch.tensor([[0, 0, 0], [30, 3, 3]])), "Draw it anew"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(model: Sam2Video, scan: Tensor, prompts: Prompts, text: str) -> None:
    with pytest.raises(UserError, match=text):
        model.open(scan, SPACING).segment(prompts)
