"""With weights: the graph cut finds the structure in three dimensions, the 2D model puts its borders right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from infers import Prompt
from lib.core.geometry import Volume
from lib.core.metrics import overlap
from lib.formats.volumes import read_volume
from lib.generalists.base import Prompts
from lib.generalists.hounsfield import is_ct
from lib.generalists.sam2d import MODELS, SliceGeneralist
from lib.generalists.slices import window
from lib.prompting import Clicks, GraphCut, Joined, OpenScan, OpenScans
from lib.prompting.border import soft
from lib.prompting.joined import explained
from lib.setup.settings import Settings
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from simulated_clicks import next_click
from tiny_study import make_tiny_study, tiny_scan

SHAPE = (64, 64, 9)
THICK = (1.0, 1.0, 6.0)
THIN = (1.0, 1.0, 1.0)
CLICK = Clicks(np.array([[32.0, 30.0, 4.0]]), np.zeros((0, 3)))


class Oracle:
    """In place of a network: every slice's mask is the same disc, whatever is asked. Images of 64 pixels."""

    size, patch = 64, 4

    def __init__(self, radius: float, score: float = 0.95) -> None:
        rows, columns = np.mgrid[:64, :64]
        # Slices are seen with both axes reversed.
        self.disc = torch.from_numpy(np.hypot(rows - (63 - 30), columns - (63 - 32)) < radius)
        self.score, self.encoded, self.asked = score, 0, 0

    def features(self, images: Tensor) -> Tensor:
        self.encoded += len(images)
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
        self.asked += 1
        logits = torch.where(self.disc, 8.0, -8.0)
        return logits.expand(3 if several else 1, 64, 64), torch.full((3 if several else 1,), self.score)


def cylinder(radius: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """A scan whose disc ends on slices 1 and 7, and the truth, ``[64, 64, 9]``."""
    random = np.random.default_rng(2)
    i, j, k = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    truth = (np.hypot(i - 32, j - 30) < radius) & (k > 0) & (k < 8)
    image = gaussian_filter(100.0 * truth, (2.5, 2.5, 0)) + random.normal(size=SHAPE) * 8
    return image.astype(np.float32), truth


def opened(network: Oracle, spacing: tuple[float, float, float], name: str = "mobile_sam", ahead: int = 0) -> OpenScan:
    volume = Volume(cylinder()[0], np.diag([*spacing, 1.0]))
    return OpenScan(volume, Joined(SliceGeneralist(MODELS[name], network), ahead=ahead))


def plain(spacing: tuple[float, float, float]) -> np.ndarray:
    return OpenScan(Volume(cylinder()[0], np.diag([*spacing, 1.0])), GraphCut()).segment(CLICK)


def test_the_model_puts_the_border_right_on_the_clicked_slice_only() -> None:
    network = Oracle(radius=11.0)
    found, before = opened(network, THICK).segment(CLICK), plain(THICK)
    disc = network.disc.flip(0, 1).T.numpy()
    assert overlap(found[..., 4], disc)[0] > 0.99
    assert network.encoded == 1
    others = [n for n in range(9) if n != 4]
    assert np.array_equal(found[..., others], before[..., others])


@pytest.mark.parametrize(("radius", "score"), [(3.0, 0.95), (31.0, 0.95), (11.0, 0.3)])
def test_what_means_something_else_changes_nothing(radius: float, score: float) -> None:
    assert np.array_equal(opened(Oracle(radius, score), THICK).segment(CLICK), plain(THICK))


def test_what_the_model_makes_of_a_slice_does_not_spread_to_the_others_by_further_clicks() -> None:
    """There, each click gets the answer that it gets without weights."""
    joined = opened(Oracle(radius=13.0), THICK)
    alone = OpenScan(Volume(cylinder()[0], np.diag([*THICK, 1.0])), GraphCut())
    outside = np.array([[51.0, 30.0, 4.0], [32.0, 49.0, 4.0]])
    for count in (0, 1, 2):
        clicks = Clicks(CLICK.inside, outside[:count])
        found, without = joined.segment(clicks), alone.segment(clicks)
        others = [n for n in range(9) if n != 4]
        assert np.array_equal(found[..., others], without[..., others])
        assert not np.array_equal(found[..., 4], without[..., 4])


@pytest.mark.parametrize("obeyed", [True, False])
def test_a_border_that_the_model_sees_elsewhere_is_not_taken_where_it_gainsays_a_click(obeyed: bool) -> None:
    image, truth = cylinder()
    session = SliceGeneralist(MODELS["mobile_sam"], Oracle(radius=13.0)).open(torch.from_numpy(image)[None], THICK)
    first = torch.from_numpy(soft(truth))
    beside = [44.0, 30.0, 4.0] if not obeyed else [46.0, 30.0, 4.0]  # the disc's last pixel is 44
    points = torch.tensor([[32.0, 30.0, 4.0], beside])
    found = session.bettered(Prompts(points, torch.tensor([True, False])), first)
    assert bool(found[44, 30, 4] >= 0.5) is obeyed
    assert torch.equal(found[..., 4] >= 0.5, first[..., 4] >= 0.5) is not obeyed


def test_what_the_model_alone_adds_far_from_the_border_changes_nothing() -> None:
    image, truth = cylinder()
    network = Oracle(radius=12.0)
    network.disc[14:22, 26:36] = True  # a bump beyond the disc, small enough to be the same structure
    session = SliceGeneralist(MODELS["mobile_sam"], network).open(torch.from_numpy(image)[None], THICK)
    first = torch.from_numpy(soft(truth))
    found = session.bettered(Prompts(torch.tensor([[32.0, 30.0, 4.0]]), torch.tensor([True])), first) >= 0.5
    alone = network.disc.flip(0, 1).T.numpy()
    assert 0.85 < overlap(alone, truth[..., 4])[0] < 0.97
    assert overlap(found[..., 4].numpy(), truth[..., 4])[0] > 0.97


def test_a_click_asks_the_model_about_a_few_slices_and_keeps_what_it_said_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lib.generalists.sam2d.session.MOST_ASKED", 3)
    network = Oracle(radius=11.5)
    scan = opened(network, THICK, ahead=6)
    nowhere = [60.0, 60.0]
    disc = network.disc.flip(0, 1).T.numpy()
    for outside in ([], [[*nowhere, 4.0]], [[*nowhere, 4.0], [*nowhere, 2.0]]):
        before = network.asked
        found = scan.segment(Clicks(CLICK.inside, np.array(outside).reshape(-1, 3)))
        scan._session.wait()  # type: ignore[attr-defined]
        assert network.asked - before <= 3
    bettered = [n for n in range(9) if overlap(found[..., n], disc)[0] > 0.99]
    assert {3, 4, 5} < set(bettered)
    assert len(bettered) > 3


@pytest.mark.slow
def test_in_thin_slices_and_for_a_model_of_boxes_the_graph_cut_answers_clicks() -> None:
    for spacing, name in ((THIN, "mobile_sam"), (THICK, "lite_medsam")):
        network = Oracle(11.0)
        assert np.array_equal(opened(network, spacing, name).segment(CLICK), plain(spacing))
        assert network.encoded == 0
    network = Oracle(11.0)
    box = Clicks(np.zeros((0, 3)), np.zeros((0, 3)), np.array([[20.0, 18.0, 1.0], [44.0, 42.0, 7.0]]))
    opened(network, THICK, "lite_medsam").segment(box)
    assert network.encoded > 0


def test_a_few_slices_of_a_box_say_what_is_meant() -> None:
    i, j, k = np.meshgrid(*[np.arange(n) for n in (64, 64, 21)], indexing="ij")
    truth = (np.hypot(i - 32, j - 30) < 12) & (k > 0) & (k < 20)
    image = 60.0 * truth + 60 * (truth & (i > 29)) + np.random.default_rng(6).normal(size=truth.shape) * 12
    box = Clicks(np.zeros((0, 3)), np.zeros((0, 3)), np.array([[21.0, 19.0, 1.0], [43.0, 41.0, 19.0]]))
    volume = Volume(image.astype(np.float32), np.diag([*THICK, 1.0]))
    network = Oracle(radius=12.0)
    found = OpenScan(volume, Joined(SliceGeneralist(MODELS["mobile_sam"], network), ahead=0)).segment(box)
    assert 0 < network.encoded <= 6
    assert overlap(found, truth)[0] > overlap(OpenScan(volume, GraphCut()).segment(box), truth)[0] + 0.1


def test_a_crescent_in_thin_slices_is_not_answered_with_what_it_encloses() -> None:
    i, j, k = np.meshgrid(*[np.arange(n) for n in (64, 64, 21)], indexing="ij")
    truth = (np.hypot(i - 32, j - 30) < 12) & (np.hypot(i - 36, j - 30) >= 10) & (k > 0) & (k < 20)
    image = 60.0 * truth + np.random.default_rng(6).normal(size=truth.shape) * 6
    corners = np.argwhere(truth)
    box = Clicks(np.zeros((0, 3)), np.zeros((0, 3)), np.stack([corners.min(0), corners.max(0)]).astype(float))
    volume = Volume(image.astype(np.float32), np.diag([*THIN, 1.0]))
    network = Oracle(radius=12.0)
    network.disc = torch.from_numpy(truth[..., 4].T[::-1, ::-1].copy())
    found = OpenScan(volume, Joined(SliceGeneralist(MODELS["mobile_sam"], network), ahead=0)).segment(box)
    assert 0 < network.encoded <= 6
    assert overlap(found, truth)[0] > 0.85


def test_slices_beside_the_clicked_one_are_encoded_while_the_answer_is_looked_at() -> None:
    network = Oracle(radius=11.0)
    scan = opened(network, THICK, ahead=3)
    model = scan._session
    scan.segment(CLICK)
    model.wait()  # type: ignore[attr-defined]
    assert network.encoded == 4
    found = scan.segment(Clicks(CLICK.inside, np.array([[5.0, 5.0, 4.0]])))
    model.wait()  # type: ignore[attr-defined]
    assert network.encoded == 4  # these are there: nothing is left to be done
    disc = network.disc.flip(0, 1).T.numpy()
    assert sum(overlap(found[..., n], disc)[0] > 0.99 for n in range(9)) == 4
    again = scan.segment(CLICK)  # the click taken back: its answer, though more is known now
    assert overlap(again[..., 3], disc)[0] < 0.99


def test_a_scan_that_is_let_go_is_encoded_no_further() -> None:
    network = Oracle(radius=11.0)
    scans = OpenScans()
    scan = scans.get("a", lambda: opened(network, THICK, ahead=3))
    model = scan._session
    model._busy.acquire()  # type: ignore[attr-defined]
    model._asked += 1  # type: ignore[attr-defined]
    model._encode_ahead(  # type: ignore[attr-defined]
        Prompts(torch.tensor([[32.0, 30.0, 4.0]]), torch.tensor([True])), torch.ones(SHAPE)
    )
    scans.clear()
    model._busy.release()  # type: ignore[attr-defined]
    model.wait()  # type: ignore[attr-defined]
    assert network.encoded == 0


class Unsure(Oracle):
    """Offers a part, the structure and the whole picture after a click, and is surest of the part."""

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
        rows, columns = np.mgrid[:64, :64]
        away = torch.from_numpy(np.hypot(rows - (63 - 30), columns - (63 - 32)))
        offered = torch.stack([away < 3, self.disc, away < 100])
        logits, scores = torch.where(offered, 8.0, -8.0), torch.tensor([0.97, 0.9, 0.8])
        if several:
            return logits, scores
        return (logits[:1], scores[:1]) if mask is None and box is None else (logits[1:2], scores[1:2])


class Wavering(Oracle):
    """Finds a disc somewhere else each time it is asked."""

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
        logits, scores = super().masks(features, points, positive, box, mask, several=several)
        return torch.stack([one.roll(9 * (3 * self.asked + n), 0) for n, one in enumerate(logits)]), scores


def picture(colour: bool = False) -> tuple[Volume, np.ndarray]:
    image, truth = cylinder()
    grey = image[..., 4:5]
    in_colour = np.stack([grey, grey, grey]) if colour else None
    return Volume(grey, np.eye(4), in_colour), truth[..., 4:5]


PIXEL = Clicks(np.array([[32.0, 30.0, 0.0]]), np.zeros((0, 3)))


def test_on_a_picture_the_mask_is_taken_that_the_graph_cut_agrees_with_not_the_part_the_model_is_surest_of() -> None:
    scan, truth = picture()
    model = SliceGeneralist(MODELS["mobile_sam"], Unsure(radius=11.0))
    alone = OpenScan(scan, model).segment(PIXEL)
    together = OpenScan(scan, Joined(model)).segment(PIXEL)
    assert overlap(alone, truth)[0] < 0.2
    assert overlap(together, truth)[0] > 0.75


@pytest.mark.parametrize("colour", [False, True])
def test_on_a_picture_the_graph_cut_answers_where_the_model_says_something_else_each_time(colour: bool) -> None:
    scan, _ = picture(colour)
    found = OpenScan(scan, Joined(SliceGeneralist(MODELS["mobile_sam"], Wavering(5.0, 0.5)))).segment(PIXEL)
    assert np.array_equal(found, OpenScan(scan, GraphCut()).segment(PIXEL))


def test_a_click_beside_the_border_of_a_picture_does_not_swap_the_structure_for_another() -> None:
    scan, truth = picture()
    model = SliceGeneralist(MODELS["mobile_sam"], Unsure(radius=11.0))
    opened_ = OpenScan(scan, Joined(model))
    first = opened_.segment(PIXEL)
    near = Clicks(np.array([[32.0, 30.0, 0.0], [32.0, 18.5, 0.0]]), np.zeros((0, 3)))
    elsewhere = Oracle(5.0, 0.1)
    elsewhere.disc = elsewhere.disc.roll(25, 0)
    model.network = elsewhere
    found = opened_.segment(near)
    assert overlap(found, truth)[0] > overlap(first, truth)[0] - 0.1


def test_clicks_account_for_changes_about_as_far_as_the_nearest_border() -> None:
    rows, columns = np.mgrid[:64, :64]
    away = torch.from_numpy(np.hypot(rows - 32, columns - 30))[..., None]
    before, whole = (away < 10).float(), (away < 25).float()
    near = Prompts(torch.tensor([[32.0, 42.0, 0.0]]), torch.tensor([True]))
    far = Prompts(torch.tensor([[32.0, 50.0, 0.0]]), torch.tensor([True]))
    assert explained((away < 11).float(), before, near)
    assert not explained(whole, before, near)
    assert explained(whole, before, far)
    inside = Prompts(torch.tensor([[32.0, 30.0, 0.0]]), torch.tensor([False]))
    assert explained(torch.zeros(64, 64, 1), whole, inside)


def test_a_box_on_a_picture_is_the_models_alone_and_so_is_a_picture_for_a_model_of_boxes() -> None:
    scan, _ = picture()
    box = Clicks(np.zeros((0, 3)), np.zeros((0, 3)), np.array([[20.0, 18.0, 0.0], [44.0, 42.0, 0.0]]))
    for name, given in (("mobile_sam", box), ("lite_medsam", box), ("lite_medsam", PIXEL)):
        model = SliceGeneralist(MODELS[name], Oracle(radius=11.0))
        found = OpenScan(scan, Joined(model)).segment(given)
        assert np.array_equal(found, OpenScan(scan, model).segment(given))


def test_clicks_on_a_picture_go_on_from_the_answer_before_and_can_be_taken_back() -> None:
    scan, _ = picture()
    opened_ = OpenScan(scan, Joined(SliceGeneralist(MODELS["mobile_sam"], Oracle(radius=11.0))))
    first = opened_.segment(PIXEL)
    opened_.segment(Clicks(PIXEL.inside, np.array([[5.0, 5.0, 0.0]])))
    assert np.array_equal(opened_.segment(PIXEL), first)


def test_ct_is_seen_by_level_and_width_and_other_scans_by_percentiles() -> None:
    random = np.random.default_rng(0)
    ct = torch.from_numpy(random.normal(40, 30, (20, 20, 20)).astype(np.float32))
    ct[:8] = torch.from_numpy(random.uniform(-1000, -700, (8, 20, 20)).astype(np.float32))  # air and lung
    ct[10, 10, 10] = 3000
    assert is_ct(ct)
    seen = window(ct)
    assert float(seen[0, 0, 0]) == 0
    assert float(seen[10, 10, 10]) == 1
    torch.testing.assert_close(seen[12:], ((ct[12:] + 160) / 400).clamp(0, 1))
    mr = ct.clamp(min=-100)
    assert not is_ct(mr)
    assert float(window(mr)[12:].std()) > float(seen[12:].std())


def test_the_task_joins_a_2d_model_with_the_graph_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_study(tmp_path / "study", scans=1)
    study = Study(str(folder), StudyDatastore(str(folder)), Settings(), tmp_path / "models")
    network = Oracle(radius=11.0)
    monkeypatch.setattr(Study, "generalist", property(lambda self: SliceGeneralist(MODELS["mobile_sam"], network)))
    image = str(folder / "case_1.nii.gz")
    truth = tiny_scan(1)[1] == 1
    click = next_click(np.zeros_like(truth), truth, (3, 3, 3))
    assert click is not None
    file, params = Prompt(study)({"image": image, "image_id": "case_1", "label": "x", "foreground": [list(click[0])]})
    found = read_volume(file).array > 0
    Path(file).unlink()
    assert params["source"] == "mobile_sam"
    assert overlap(found, truth)[0] > 0.8  # where the model alone would find its disc on every slice
