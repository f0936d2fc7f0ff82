"""Clicks without weights: what a person gets for them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from infers import Prompt
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.formats.volumes import read_volume
from lib.generalists.base import Promptable, PromptKind, Prompts
from lib.prompting import Clicks, GraphCut, OpenScan, OpenScans
from lib.setup.settings import Settings
from phantoms import blobs
from realdata import folder_of, scans_of
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from simulated_clicks import next_click
from tiny_study import make_tiny_study

SHAPE = (44, 52, 36)


def ball_scan(radius: float = 9.0, *, offset: float = 0.0, scale: float = 1.0) -> tuple[torch.Tensor, np.ndarray]:
    """A bright ball, and one just as bright that touches it (not meant), in textured surroundings."""
    random = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in SHAPE], indexing="ij"), axis=-1)
    ball = ((grid - (20, 20, 18)) ** 2).sum(-1) < radius**2
    beside = ((grid - (20, 20 + radius + 6, 18)) ** 2).sum(-1) < 6.5**2
    texture = gaussian_filter(random.normal(size=SHAPE), 1.5)
    image = 30 * (ball | beside) + 30 * texture / texture.std() * 0.2 + random.normal(size=SHAPE) * 3
    return torch.tensor(image * scale + offset, dtype=torch.float32)[None], ball


def prompts(*clicks: tuple[tuple[float, float, float], bool], **more: torch.Tensor) -> Prompts:
    points = torch.tensor([c for c, _ in clicks], dtype=torch.float32).reshape(-1, 3)
    return Prompts(points=points, positive=torch.tensor([p for _, p in clicks], dtype=torch.bool), **more)


def overlap(found: object, truth: np.ndarray) -> float:
    inside = np.asarray(found) >= 0.5
    return float(2 * (inside & truth).sum() / (inside.sum() + truth.sum()))


def test_it_is_promptable() -> None:
    assert isinstance(GraphCut(), Promptable)
    assert GraphCut().prompts == {"points", "box", "mask"}


def test_negative_click_takes_the_neighbour_away() -> None:
    image, ball = ball_scan()
    session = GraphCut().open(image, (2.0, 2.0, 2.0))
    one = session.segment(prompts(((20, 20, 18), True)))
    assert one.shape == image.shape[1:]
    assert one.dtype == torch.float32
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    two = session.segment(prompts(((20, 20, 18), True), ((20, 36, 18), False)))
    assert one[20, 20, 18] >= 0.5
    assert two[20, 36, 18] < 0.5
    assert overlap(two, ball) > 0.9


@pytest.mark.slow
def test_clicks_are_obeyed_wherever_they_are() -> None:
    image, _ = ball_scan()
    session = GraphCut().open(image, (2.0, 2.0, 2.0))
    random = np.random.default_rng(0)
    for _ in range(4):
        places = random.integers(2, 30, (6, 3)).tolist()
        answer = session.segment(prompts(*[((i, j, k), n % 2 == 0) for n, (i, j, k) in enumerate(places)]))
        for n, (i, j, k) in enumerate(places):
            assert (float(answer[i, j, k]) >= 0.5) == (n % 2 == 0)


@pytest.mark.slow
def test_intensity_scale_does_not_matter() -> None:
    click = prompts(((20, 20, 18), True), ((20, 36, 18), False))
    answers = [
        GraphCut().open(ball_scan(offset=o, scale=s)[0], (2, 2, 2)).segment(click) for o, s in ((0, 1), (-900, 25))
    ]
    assert overlap(answers[0], np.asarray(answers[1]) >= 0.5) > 0.98


@pytest.mark.slow
def test_structures_of_any_size_are_found() -> None:
    for radius in (5.0, 15.0):
        image, ball = ball_scan(radius)
        session = GraphCut().open(image, (2.0, 2.0, 2.0))
        clicks: list[tuple[tuple[float, float, float], bool]] = []
        found = np.zeros(SHAPE, dtype=bool)
        for _ in range(4):
            click = next_click(found, ball, (2, 2, 2))
            assert click is not None
            clicks.append(click)
            found = np.asarray(session.segment(prompts(*clicks))) >= 0.5
        assert overlap(found, ball) > 0.85, radius


def test_box_alone_and_its_edge() -> None:
    image, ball = ball_scan()
    corners = np.argwhere(ball)
    box = torch.tensor(np.stack([corners.min(0), corners.max(0)]), dtype=torch.float32)
    answer = np.asarray(GraphCut().open(image, (2.0, 2.0, 2.0)).segment(prompts(box=box)))
    assert overlap(answer, ball) > 0.9
    outside = np.ones(SHAPE, dtype=bool)
    outside[tuple(slice(int(a), int(b) + 1) for a, b in box.T)] = False
    assert not (answer[outside] >= 0.5).any()


@pytest.mark.slow
def test_previous_mask_is_kept_except_where_it_is_clicked_away() -> None:
    image, ball = ball_scan()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor(ball, dtype=torch.float32)
    session = GraphCut().open(noise, (2.0, 2.0, 2.0))
    click = ((20.0, 20.0, 18.0), True)
    # In mere noise nothing but the mask says where the structure ends.
    assert overlap(session.segment(prompts(click, mask=mask)), ball) > overlap(session.segment(prompts(click)), ball)
    assert overlap(session.segment(prompts(click, mask=mask)), ball) > 0.8
    corrected = session.segment(prompts(click, ((20.0, 27.0, 18.0), False), mask=mask))
    assert corrected[20, 27, 18] < 0.5
    assert corrected[20, 13, 18] >= 0.5


@pytest.mark.parametrize("shape", [(40, 36, 2), (3, 40, 40), (5, 5, 5), (2, 2, 2)])
def test_thin_scans_are_answered(shape: tuple[int, int, int]) -> None:
    image = torch.zeros(1, *shape)
    image[:, : shape[0] // 2 + 1] = 100.0
    session = GraphCut().open(image + torch.randn(image.shape), (1.0, 1.0, 5.0))
    answer = session.segment(prompts(((0, shape[1] // 2, shape[2] // 2), True)))
    assert answer.shape == shape
    assert answer[0, shape[1] // 2, shape[2] // 2] >= 0.5


def test_constant_surroundings_are_answered() -> None:
    image = torch.zeros(1, 40, 40, 40)
    image[0, :3, :3, :3] = 1.0
    answer = GraphCut().open(image, (1.0, 1.0, 1.0)).segment(prompts(((30, 30, 30), True)))
    assert torch.isfinite(answer).all()
    assert answer[30, 30, 30] >= 0.5


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (prompts(), "at least one click inside"),
        (prompts(((5, 5, 5), False)), "at least one click inside"),
        (prompts(((5, 52, 5), True)), "outside the scan"),
        (prompts(((-1, 5, 5), True)), "outside the scan"),
        (prompts(((float("nan"), 5, 5), True)), "outside the scan"),
        (prompts(box=torch.tensor([[60.0, 0, 0], [70.0, 9, 9]])), "outside the scan"),
        (prompts(mask=torch.zeros(SHAPE)), "at least one click inside"),
    ],
)
def test_what_says_nothing_is_refused(bad: Prompts, part: str) -> None:
    session = GraphCut().open(ball_scan()[0], (2.0, 2.0, 2.0))
    with pytest.raises(UserError, match=part):
        session.segment(bad)


@pytest.mark.slow
def test_large_scan_answers_soon() -> None:
    image = torch.randn(1, 200, 200, 160)
    image[0, 80:120, 80:120, 60:100] += 4
    session = GraphCut().open(image, (0.8, 0.8, 1.0))
    start = time.process_time()
    answer = session.segment(prompts(((100, 100, 80), True)))
    # Two seconds on two cores; what other work does to the clock does not count.
    assert time.process_time() - start < 4
    truth = np.zeros(answer.shape, dtype=bool)
    truth[80:120, 80:120, 60:100] = True
    assert overlap(answer, truth) > 0.9


# --- open scans -------------------------------------------------------------------------------------------------------


def clicks(*inside: tuple[int, int, int], outside: tuple[tuple[int, int, int], ...] = ()) -> Clicks:
    return Clicks(np.array(inside, float).reshape(-1, 3), np.array(outside, float).reshape(-1, 3))


def turned(scan: Volume, axes: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """The same anatomy stored with axis ``n`` being the old axis ``axes[n]``, running backwards where in ``flips``."""
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for n, axis in enumerate(axes):
        back[axis, n] = -1 if n in flips else 1
        back[axis, 3] = scan.shape[axis] - 1 if n in flips else 0
    return Volume(np.ascontiguousarray(np.flip(scan.array.transpose(axes), flips)), scan.affine @ back)


@pytest.mark.slow
def test_scan_stored_otherwise_gives_the_same_structure() -> None:
    scan, label = blobs()
    places = [next_click(np.zeros(label.shape, bool), label == 1, scan.spacing), ((30, 20, 18), False)]
    assert places[0] is not None
    plain = OpenScan(scan, GraphCut()).segment(clicks(places[0][0], outside=((30, 20, 18),)))
    assert overlap(plain, label == 1) > 0.85
    for axes, flips in (((2, 0, 1), (0, 2)), ((1, 2, 0), (1,)), ((0, 1, 2), (0, 1, 2))):
        moved = turned(scan, axes, flips)
        marks = []
        for place in (places[0][0], (30, 20, 18)):
            mark = np.zeros(label.shape, np.float32)
            mark[place] = 1
            at = np.argwhere(turned(Volume(mark, scan.affine), axes, flips).array)[0]
            marks.append((int(at[0]), int(at[1]), int(at[2])))
        answer = OpenScan(moved, GraphCut()).segment(clicks(marks[0], outside=(marks[1],)))
        expected = turned(Volume(plain.astype(np.float32), scan.affine), axes, flips).array > 0.5
        assert overlap(answer, expected) > 0.99


class Recorder:
    """A model that counts scans and keeps what it was asked."""

    name = "recorder"
    prompts: frozenset[PromptKind] = frozenset({"points", "box", "mask"})

    def __init__(self) -> None:
        self.opened = 0
        self.asked: list[Prompts] = []

    def open(self, image: torch.Tensor, spacing: object) -> Recorder:
        self.opened += 1
        self.shape = image.shape[1:]
        return self

    def segment(self, given: Prompts) -> torch.Tensor:
        self.asked.append(given)
        answer = torch.zeros(self.shape)
        answer[tuple(given.points[0].int())] = 1
        return answer


def test_previous_answer_goes_with_added_clicks_only() -> None:
    model = Recorder()
    opened = OpenScan(blobs()[0], model)
    a, b, c = (5, 6, 7), (8, 9, 10), (11, 12, 13)
    opened.segment(clicks(a), "x")
    opened.segment(clicks(a, b), "x")
    opened.segment(clicks(a, b), "y")
    opened.segment(clicks(a, c), "x")
    opened.segment(clicks(a, c, outside=(b,)), "x")
    again = opened.segment(clicks(a, c, outside=(b,)), "x")
    assert again[a]
    assert [m.mask is not None for m in model.asked] == [False, True, False, True, True]
    before = model.asked[3].mask
    assert before is not None
    assert before[a] == 1
    opened.forget("x")
    opened.segment(clicks(a, c, outside=(b,)), "x")
    assert model.asked[-1].mask is None
    assert model.asked[-1].positive.tolist() == [True, True, False]


@pytest.mark.slow
def test_clicks_taken_back_get_the_answer_they_had() -> None:
    scan, label = blobs()
    first = next_click(np.zeros(label.shape, bool), label == 1, scan.spacing)
    assert first is not None
    opened = OpenScan(scan, GraphCut())
    given = [clicks(first[0])]
    answers = [opened.segment(given[0])]
    for _ in range(3):
        wrong = next_click(answers[-1], label == 1, scan.spacing)
        assert wrong is not None
        inside, outside = given[-1].inside, given[-1].outside
        place = np.array([wrong[0]], dtype=float)
        inside, outside = (np.r_[inside, place], outside) if wrong[1] else (inside, np.r_[outside, place])
        given.append(Clicks(inside, outside))
        answers.append(opened.segment(given[-1]))
    assert not np.array_equal(answers[3], answers[1])
    for n in (3, 1, 0):  # two clicks taken back at once
        assert np.array_equal(opened.segment(given[n]), answers[n])
    for n in (1, 2, 3):  # and made again
        assert np.array_equal(opened.segment(given[n]), answers[n])
    opened.segment(given[1])
    other = Clicks(np.r_[given[1].inside, [[1.0, 1.0, 1.0]]], given[1].outside)
    assert opened.segment(other)[1, 1, 1]
    assert np.array_equal(opened.segment(given[1]), answers[1])


def test_scans_are_opened_once_and_let_go_in_order() -> None:
    scan = blobs()[0]
    model = Recorder()
    scans = OpenScans(most=2)
    for key in ("a", "b", "a", "c", "a"):
        scans.get(key, lambda: OpenScan(scan, model))
    assert (model.opened, len(scans)) == (3, 2)
    scans.get("b", lambda: OpenScan(scan, model))
    assert model.opened == 4
    small = OpenScans(most=9, most_bytes=1)
    for key in ("a", "b"):
        small.get(key, lambda: OpenScan(scan, model))
    assert len(small) == 1


def test_threads_open_a_scan_once_and_an_error_is_not_kept() -> None:
    scan, model, scans = blobs()[0], Recorder(), OpenScans()

    def slow() -> OpenScan:
        time.sleep(0.1)
        return OpenScan(scan, model)

    threads = [threading.Thread(target=scans.get, args=("a", slow)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.opened == 1

    def broken() -> OpenScan:
        raise UserError("not now")

    with pytest.raises(UserError):
        scans.get("b", broken)
    assert scans.get("b", slow) is scans.get("b", slow)


def test_simulated_clicks_on_a_picture_go_to_the_middle_too() -> None:
    truth = np.zeros((40, 30, 1), dtype=bool)
    truth[10:21, 5:16] = True
    assert next_click(np.zeros_like(truth), truth, (1, 1, 1)) == ((15, 10, 0), True)
    assert next_click(truth, truth, (1, 1, 1)) is None


def test_simulated_clicks_go_to_the_middle_of_the_largest_error() -> None:
    truth = np.zeros((20, 20, 20), dtype=bool)
    truth[4:11, 4:11, 4:11] = True
    assert next_click(np.zeros_like(truth), truth, (1, 1, 1)) == ((7, 7, 7), True)
    found = truth.copy()
    found[12:17, 12:17, 12:17] = True
    assert next_click(found, truth, (1, 1, 1)) == ((14, 14, 14), False)
    assert next_click(truth, truth, (1, 1, 1)) is None


# --- the infer task ---------------------------------------------------------------------------------------------------


def test_generalist_that_takes_prompts_answers_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_study(tmp_path / "study", scans=2)
    study = Study(str(folder), StudyDatastore(str(folder)), Settings(), tmp_path / "models")
    model = Recorder()
    monkeypatch.setattr(Study, "generalist", property(lambda self: model))
    task = Prompt(study)
    request = {"image": str(folder / "case_1.nii.gz"), "image_id": "case_1", "label": "x"}
    for _ in range(2):
        file, params = task({**request, "foreground": [[7, 8, 9]]})
        assert file is not None
        found = read_volume(file).array
        Path(file).unlink()
        assert np.argwhere(found).tolist() == [[7, 8, 9]]
        assert params["source"] == "recorder"
    file, _ = task({**request, "foreground": [[7, 8, 9]], "background": [[1, 1, 1]]})
    Path(str(file)).unlink()
    assert model.opened == 1
    # The same clicks again are not computed again; added clicks come with the previous answer.
    assert [a.mask is not None for a in model.asked] == [False, True]
    task.release()
    file, _ = task({**request, "foreground": [[7, 8, 9]]})
    Path(str(file)).unlink()
    assert model.opened == 2


@pytest.mark.slow
@pytest.mark.realdata
def test_five_clicks_on_real_hippocampi() -> None:
    folder = folder_of("hippocampus")
    reached = []
    for name in scans_of(folder)["val"][:2]:
        scan = read_volume(folder / "images" / f"{name}.nii.gz")
        truth = read_volume(folder / "labels" / f"{name}.nii.gz").array > 0
        opened = OpenScan(scan, GraphCut())
        places: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
        found = np.zeros_like(truth)
        for _ in range(5):
            click = next_click(found, truth, scan.spacing)
            assert click is not None
            places[click[1]].append(click[0])
            found = opened.segment(clicks(*places[True], outside=tuple(places[False])))
        reached.append(overlap(found, truth))
    assert sum(reached) / len(reached) > 0.70
