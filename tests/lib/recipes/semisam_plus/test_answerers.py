"""Answers of generalists to the prompts of a specialist, and what they agree on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib.generalists.base import PromptKind, Prompts
from lib.generalists.mind import Mind
from lib.recipes.semisam_plus.answerers import only_asked
from lib.recipes.semisam_plus.consensus import confident, consensus
from lib.recipes.semisam_plus.promptable import PromptableAnswerer
from lib.recipes.semisam_plus.question import Questioner, QuestionOptions
from lib.recipes.semisam_plus.random_walk import WalkAnswerer, settle
from lib.training.scan_view import ScanView

SPACING = (1.0, 1.0, 1.0)


class Recorder:
    """A promptable model that gives back the mask, or a ball around the positive points."""

    name = "recorder"
    prompts: frozenset[PromptKind] = frozenset({"points", "mask"})

    def __init__(self) -> None:
        self.asked: list[Prompts] = []
        self.opened = 0

    def open(self, image: Tensor, spacing: object) -> Recorder:
        self.opened += 1
        self.shape = image.shape[1:]
        return self

    def segment(self, prompts: Prompts) -> Tensor:
        self.asked.append(prompts)
        if prompts.mask is not None:
            return prompts.mask
        grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in self.shape], indexing="ij"), dim=-1).float()
        away = torch.cdist(grid.reshape(-1, 3), prompts.points[prompts.positive]).amin(dim=1)
        return (away < 2.0).float().reshape(self.shape)


def cubes() -> tuple[Tensor, Tensor]:
    """A scan with a bright and a dark cube ``[1, 24, 24, 24]``, and its truth ``[3, 24, 24, 24]``."""
    truth = torch.zeros(3, 24, 24, 24)
    truth[1, 4:11, 6:18, 6:18] = 1.0
    truth[2, 13:20, 6:18, 6:18] = 1.0
    truth[0] = 1.0 - truth[1:].sum(dim=0)
    noise = torch.randn(1, 24, 24, 24, generator=torch.Generator().manual_seed(3))
    return (truth[1] - truth[2])[None] * 5.0 + 0.5 * noise, truth


def blurred(truth: Tensor) -> Tensor:
    """A specialist's unsure idea of it: borders two voxels off, and soft."""
    moved = truth.roll(2, dims=2)
    soft = torch.nn.functional.avg_pool3d(moved[None], 5, stride=1, padding=2)[0] + 0.02
    return soft / soft.sum(dim=0)


def overlap(answer: Tensor, truth: Tensor) -> float:
    own, other = answer.argmax(dim=0), truth.argmax(dim=0)
    return (
        sum(float(2 * ((own == v) & (other == v)).sum() / ((own == v).sum() + (other == v).sum())) for v in (1, 2)) / 2
    )


def test_consensus_of_hand_made_answers() -> None:
    yes, no = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    answers = [torch.stack([yes, yes, a], dim=1).reshape(2, 3, 1, 1) for a in (yes, no)]
    answers[1][:, 1, 0, 0] = torch.tensor([0.2, 0.8])
    mean, uncertainty = consensus(answers)
    torch.testing.assert_close(mean[1].flatten(), torch.tensor([1.0, 0.9, 0.5]))
    torch.testing.assert_close(uncertainty.flatten(), torch.tensor([0.0, 0.2, 1.0]))
    assert confident(uncertainty, 0.2 + 1e-4).flatten().tolist() == [1.0, 1.0, 0.0]
    assert consensus(answers[:1])[1].max() == 0.0


def test_a_promptable_model_is_asked_about_each_structure() -> None:
    image, truth = cubes()
    model = Recorder()
    scan = PromptableAnswerer(model).open(ScanView(image, SPACING))
    question = Questioner(truth, "both", QuestionOptions(logit_shift=0.0)).draw(4, torch.Generator().manual_seed(0))
    answer = scan.answer(question)
    assert len(model.asked) == 2
    for value, prompts in zip((1, 2), model.asked, strict=True):
        x, y, z = prompts.points[prompts.positive].long().T
        assert len(x) == 4
        assert (truth[value, x, y, z] == 1).all()
        x, y, z = prompts.points[~prompts.positive].long().T
        assert len(x) == 8
        assert (truth[value, x, y, z] == 0).all()
    assert overlap(answer, truth) == 1.0
    torch.testing.assert_close(answer.sum(dim=0), torch.ones(24, 24, 24))
    assert scan.bytes > image.nbytes

    model.asked.clear()
    points = Questioner(truth, "points").draw(4, torch.Generator().manual_seed(0))
    answer = scan.answer(points)
    assert all(p.mask is None for p in model.asked)
    assert model.opened == 1
    assert 0 < (answer.argmax(dim=0) == 1).sum() < truth[1].sum()


def test_a_model_that_takes_turns_is_called_for_before_each_answer() -> None:
    """On a GPU another model may have taken its place since it was asked last."""
    image, truth = cubes()

    class Turns:
        calls = 0
        model = Recorder()
        name = model.name

        @property
        def inner(self) -> Recorder:
            self.calls += 1
            return self.model

    turns = Turns()
    scan = PromptableAnswerer(turns).open(ScanView(image, SPACING))  # type: ignore[arg-type]
    assert turns.calls == 1
    question = Questioner(truth, "points").draw(4, torch.Generator().manual_seed(0))
    for calls in (2, 3):
        scan.answer(question)
        assert turns.calls == calls
    assert turns.model.opened == 1


def test_a_mask_that_marks_nothing_is_no_prompt() -> None:
    image, truth = cubes()
    model = Recorder()
    scan = PromptableAnswerer(model).open(ScanView(image, SPACING))
    question = Questioner(truth, "mask").draw(0, torch.Generator())
    assert question.mask is not None
    question.mask[1] = 0.0
    answer = scan.answer(question)
    assert len(model.asked) == 1
    assert not (answer.argmax(dim=0) == 1).any()


@pytest.mark.parametrize("mode", ["both", "mask", "points"])
def test_prompts_settle_at_the_edges_of_the_scan(mode: str) -> None:
    image, truth = cubes()
    found = blurred(truth)
    scan = WalkAnswerer(Mind(), points=64 if mode != "points" else 200).open(ScanView(image, SPACING))
    questioner, generator = Questioner(found, mode), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    answers = [scan.answer(questioner.draw(64 if mode != "points" else 200, generator)) for _ in range(3)]
    mean, uncertainty = consensus(answers)
    torch.testing.assert_close(mean.sum(dim=0), torch.ones(24, 24, 24))
    # Points alone cannot tell more than the prediction they come from, a mask is corrected.
    assert overlap(mean, truth) > overlap(found, truth) + (0.01 if mode != "points" else -0.1)
    wrong = mean.argmax(dim=0) != truth.argmax(dim=0)
    assert 0 < uncertainty.mean() < 0.5
    assert uncertainty[wrong].mean() > 2 * uncertainty[~wrong].mean()


def test_features_that_are_coarse_and_scans_without_contrast() -> None:
    class Coarse:
        name = "coarse"

        def encode(self, image: Tensor, spacing: object) -> Tensor:
            return torch.nn.functional.avg_pool3d(image.repeat(64, 1, 1, 1), 8)

    image, truth = cubes()
    for scan in (image, torch.zeros_like(image)):
        opened = WalkAnswerer(Coarse()).open(ScanView(scan, SPACING))
        answer = opened.answer(Questioner(blurred(truth), "both").draw(20, torch.Generator().manual_seed(0)))
        assert answer.isfinite().all()
        assert overlap(answer, truth) > 0.5


def test_settling_finds_the_minimum() -> None:
    """Two voxels, ``w (a - b)^2 + g_a (a - p_a)^2 + g_b (b - p_b)^2`` with w = 1, g = (1, 3), p = (1, 0)."""
    prior = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1)
    hold = torch.tensor([1.0, 3.0]).reshape(2, 1, 1)
    ties = [torch.ones(1, 1, 1), torch.ones(2, 0, 1), torch.ones(2, 1, 0)]
    # From 2 a = b + 1 and 4 b = a: a = 4 / 7, b = 1 / 7.
    torch.testing.assert_close(settle(prior, hold, ties, 60)[0].flatten(), torch.tensor([4 / 7, 1 / 7]))


def test_structures_that_were_not_asked_about_keep_the_prediction() -> None:
    prediction = torch.tensor([0.5, 0.2, 0.3]).reshape(3, 1, 1, 1).repeat(1, 2, 1, 1)
    prediction[:, 0, 0, 0] = torch.tensor([0.1, 0.7, 0.2])
    question = Questioner(prediction, "mask").draw(0, torch.Generator())
    assert question.asked == (1,)
    answer = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]).reshape(3, 2, 1, 1)
    joined = only_asked(answer, question.asked, prediction)
    torch.testing.assert_close(joined.flatten(1), torch.tensor([[0.4, 0.7], [0.4, 0.0], [0.2, 0.3]]), atol=1e-5, rtol=0)
