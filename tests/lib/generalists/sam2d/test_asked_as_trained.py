"""A 2D model is asked as it was trained: its own logits go back, clicks choose among its masks, colours stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.core.geometry import Volume
from lib.generalists.base import Prompts
from lib.generalists.sam2d import MODELS, SliceGeneralist
from lib.generalists.sam2d.candidates import Candidates
from lib.prompting import Clicks, OpenScan

FLAT = (1.0, 1.0, 8.0)


class Scripted:
    """In place of a network: offers the masks that it was given. Images of 64 pixels.

    Args:
        single: logits of the one mask.
        several: logits of the three masks.
        scores: of the three.
    """

    size, patch = 64, 4

    def __init__(self, single: Tensor, several: list[Tensor], scores: tuple[float, ...] = (0.9, 0.8, 0.7)) -> None:
        self.single, self.several, self.scores = single, torch.stack(several), torch.tensor(scores)
        self.asked: list[tuple[bool, Tensor | None]] = []
        self.images: list[Tensor] = []

    def features(self, images: Tensor) -> Tensor:
        self.images.append(images)
        return torch.zeros(len(images), 4, 16, 16)

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
        self.asked.append((several, mask))
        return (self.several, self.scores) if several else (self.single[None], torch.tensor([0.95]))


def square(top: int, left: int, side: int, inside: float = 6.25) -> Tensor:
    """Logits ``[64, 64]`` of a square."""
    logits = torch.full((64, 64), -9.5)
    logits[top : top + side, left : left + side] = inside
    return logits


def opened(network: Scripted, name: str = "mobile_sam") -> OpenScan:
    """A picture of 64 x 64 pixels."""
    picture = np.random.default_rng(0).random((64, 64, 1)).astype(np.float32)
    return OpenScan(Volume(picture, np.diag([-1.0, -1.0, 1.0, 1.0])), SliceGeneralist(MODELS[name], network))


def click(*inside: tuple[int, int], outside: tuple[tuple[int, int], ...] = ()) -> Clicks:
    """Clicks at columns and rows of the picture."""
    places = [np.array([(*place, 0) for place in given], dtype=float).reshape(-1, 3) for given in (inside, outside)]
    return Clicks(*places)


def rows_and_columns(found: np.ndarray) -> tuple[slice, slice]:
    """What is segmented, as rows and columns."""
    columns, rows = np.nonzero(found[..., 0])
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)


def test_an_answer_goes_back_as_the_decoder_gave_it() -> None:
    network = Scripted(square(20, 20, 12), [square(20, 20, 10), square(0, 0, 2), square(0, 0, 2)])
    scan = opened(network)
    scan.segment(click((24, 24)))
    scan.segment(click((24, 24), (31, 31)))
    assert [several for several, _ in network.asked] == [True, False, False]  # then with the mask made of them
    hint = network.asked[1][1]
    assert hint is not None
    torch.testing.assert_close(hint, square(20, 20, 10))  # beyond the range that answers are cut off at


def test_answers_of_two_people_are_not_mixed_up() -> None:
    network = Scripted(square(20, 20, 12), [square(20, 20, 10), square(0, 0, 2), square(0, 0, 2)])
    scan = opened(network)
    scan.segment(click((24, 24)), "anna")
    network.several = torch.stack([square(40, 40, 10)] * 3)
    scan.segment(click((44, 44)), "uma")
    scan.segment(click((24, 24), (31, 31)), "anna")
    hint = network.asked[-2][1]
    assert hint is not None
    torch.testing.assert_close(hint, square(20, 20, 10))


def test_a_mask_from_elsewhere_goes_in_as_logits_made_from_it() -> None:
    network = Scripted(square(20, 20, 12), [square(20, 20, 10)] * 3)
    session = SliceGeneralist(MODELS["mobile_sam"], network).open(torch.rand(1, 64, 64, 1), FLAT)
    mask = torch.zeros(64, 64, 1)
    mask[30:50, 30:50] = 1.0
    session.segment(Prompts(torch.tensor([[40.0, 40.0, 0.0]]), torch.tensor([True]), mask=mask))
    hint = network.asked[0][1]
    assert hint is not None
    assert int((hint > 0).sum()) == 400


def test_a_mask_that_misses_the_click_or_fills_the_slice_is_no_answer() -> None:
    whole, elsewhere, right = square(0, 0, 64), square(50, 50, 8), square(10, 10, 9)
    network = Scripted(right, [whole, elsewhere, right])
    assert rows_and_columns(opened(network).segment(click((12, 12)))) == (slice(10, 19), slice(10, 19))


def test_a_mask_with_a_negative_click_makes_the_network_be_asked_again() -> None:
    too_much, right = square(10, 10, 40), square(10, 10, 9)
    network = Scripted(too_much, [too_much, right, square(50, 50, 8)])
    scan = opened(network)
    assert rows_and_columns(scan.segment(click((12, 12)))) == (slice(10, 50), slice(10, 50))
    found = scan.segment(click((12, 12), outside=((40, 40),)))
    assert rows_and_columns(found) == (slice(10, 19), slice(10, 19))
    assert [(several, hint is None) for several, hint in network.asked] == [
        (True, True),
        (False, False),
        (False, False),
        (True, False),
    ]


def test_what_led_astray_is_left_out_at_last() -> None:
    too_much, right = square(10, 10, 40), square(10, 10, 9)

    class Stubborn(Scripted):
        def masks(self, *given: Tensor | None, several: bool) -> tuple[Tensor, Tensor]:
            logits, scores = super().masks(*given, several=several)  # type: ignore[arg-type]
            return (torch.stack([too_much] * len(logits)), scores) if given[4] is not None else (logits, scores)

    network = Stubborn(too_much, [too_much, right, square(50, 50, 8)])
    scan = opened(network)
    scan.segment(click((12, 12)))
    found = scan.segment(click((12, 12), outside=((40, 40),)))
    assert rows_and_columns(found) == (slice(10, 19), slice(10, 19))


def test_where_every_mask_is_wrong_the_least_wrong_one_is_taken() -> None:
    logits = torch.stack([square(0, 0, 64), square(10, 10, 40), square(50, 50, 8)])
    points, positive = torch.tensor([[12.0, 12.0], [40.0, 40.0], [54.0, 54.0]]), torch.tensor([True, False, False])
    found = Candidates.of(logits, torch.tensor([0.9, 0.5, 0.8]), (64, 64), points, positive)
    assert found.wrong.tolist() == [3, 1, 2]
    assert found.contradicted
    assert found.best == 1
    beside = Candidates.of(logits[1:2], torch.ones(1), (64, 64), torch.tensor([[51.0, 30.0]]), torch.tensor([True]))
    assert not beside.contradicted  # a click beside the border corrects it
    narrow = Candidates.of(logits, torch.tensor([0.9, 0.5, 0.8]), (48, 32), points[:1], positive[:1])
    assert narrow.logits.shape == (3, 48, 32)
    assert narrow.best == 1


@pytest.mark.parametrize("name", ["mobile_sam", "lite_medsam"])
def test_pictures_in_colour_are_asked_in_colour(name: str) -> None:
    network = Scripted(square(20, 20, 12), [square(20, 20, 10)] * 3)
    colour = np.zeros((3, 64, 64, 1), dtype=np.float32)
    colour[0, :32], colour[1, 32:] = 255.0, 51.0
    scan = Volume(colour.mean(0), np.diag([-1.0, -1.0, 1.0, 1.0]), colour)
    plain = replace(MODELS[name], mean=None, deviation=None)
    OpenScan(scan, SliceGeneralist(plain, network)).segment(click((24, 24)))
    image = network.images[0][0]
    red, green, blue = (float(channel[30, 10]) for channel in image)
    assert (red, green, blue) == (1.0, 0.0, 0.0)
    assert float(image[1, 30, 50]) == pytest.approx(0.2)
    assert float(image[0, 30, 50]) == 0.0
