"""Prompts that a specialist's prediction gives."""

from __future__ import annotations

import pytest
import torch

from lib.recipes.semisam_plus.question import Questioner, QuestionOptions


def prediction() -> torch.Tensor:
    """Two blocks, one of each structure, surest in their middle."""
    probabilities = torch.full((3, 12, 12, 12), 0.02)
    probabilities[1, 1:5, 2:10, 2:10] = 0.6
    probabilities[1, 2:4, 4:8, 4:8] = 0.9
    probabilities[2, 7:11, 2:10, 2:10] = 0.7
    probabilities[0] = 1.0 - probabilities[1:].sum(dim=0)
    return probabilities


def test_points_lie_where_the_specialist_is_sure() -> None:
    found = prediction()
    question = Questioner(found, "points", QuestionOptions(sure=0.1)).draw(8, torch.Generator().manual_seed(0))
    assert question.mask is None
    assert question.asked == (1, 2)
    assert question.classes.bincount().tolist() == [8, 8, 8]
    x, y, z = question.points.T
    assert (found.argmax(dim=0)[x, y, z] == question.classes).all()
    assert (found[1, x, y, z][question.classes == 1] > 0.8).all()
    # A tenth of a structure's 256 voxels, for 8 points.
    assert question.stands_for[question.classes == 1].unique().item() == pytest.approx(26 / 8)


def test_points_of_the_background_lie_near_the_structures() -> None:
    far = torch.zeros(2, 40, 8, 8)
    far[1, :4] = 1.0
    far[0] = 1.0 - far[1]
    question = Questioner(far, "points", QuestionOptions(sure=1.0, reach=3)).draw(50, torch.Generator())
    background = question.points[question.classes == 0]
    assert len(background) == 50
    assert background[:, 0].min() >= 4
    assert background[:, 0].max() < 4 + 3


def test_every_question_differs_and_a_seed_repeats_them() -> None:
    for mode in ("both", "mask", "points"):
        questioner = Questioner(prediction(), mode)
        one, other = (questioner.draw(5, torch.Generator().manual_seed(s)) for s in (1, 2))
        again = questioner.draw(5, torch.Generator().manual_seed(1))
        assert torch.equal(one.points, again.points)
        if mode != "mask":
            assert not torch.equal(one.points, other.points)
        if mode != "points":
            assert one.mask is not None
            assert other.mask is not None
            assert again.mask is not None
            assert torch.equal(one.mask, again.mask)
            assert not torch.equal(one.mask, other.mask)
            torch.testing.assert_close(one.mask.sum(dim=0), torch.ones(12, 12, 12))


def test_a_mask_of_one_class_marks_where_that_class_leads() -> None:
    found = prediction()
    question = Questioner(found, "mask", QuestionOptions(logit_shift=0.0)).draw(3, torch.Generator())
    for value in (1, 2):
        mask = question.mask_of(value)
        assert mask is not None
        assert torch.equal(mask > 0.5, found.argmax(dim=0) == value)


@pytest.mark.parametrize("mode", ["both", "mask", "points"])
def test_predictions_of_nothing_and_of_everything(mode: str) -> None:
    empty = torch.zeros(3, 5, 5, 5)
    empty[0] = 1.0
    questioner = Questioner(empty, mode)  # type: ignore[arg-type]
    assert questioner.asked == ()
    with pytest.raises(ValueError, match="empty"):
        questioner.draw(3, torch.Generator())
    full = empty.roll(2, dims=0)
    question = Questioner(full, mode).draw(3, torch.Generator())  # type: ignore[arg-type]
    assert question.asked == (2,)
    assert set(question.classes.tolist()) <= {2}
    assert len(question.points) == (0 if mode == "mask" else 3)
