"""How FM-ABS's parts are put together: what the teacher sees, what is asked, and what is learned from the answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib.generalists.mind import Mind
from lib.recipes.fm_abs.answerers import answerer_of
from lib.recipes.fm_abs.assistant import SliceAssistant, SliceOptions, generalist_weight
from lib.recipes.fm_abs.prompts import PromptOptions, prompts_of
from lib.specialists.regularisers.perturbed_teacher import PerturbedTeacher
from lib.training.scan_view import ScanView
from training_parts import TinyNetwork, gradient, observe


def test_the_teacher_sees_each_scan_with_another_contrast() -> None:
    seen: list[Tensor] = []

    class Watched(PerturbedTeacher):
        def taught(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().taught(images)

    teacher = Watched()
    teacher.start(TinyNetwork(), 2, 10, torch.Generator().manual_seed(0))
    images = torch.rand(3, 1, 4, 4, 4) + 1
    for _ in range(20):
        teacher.loss(observe(TinyNetwork(), images, [True, False, False]))
    factors = torch.stack([(each / images).flatten(1) for each in seen])  # [calls, scans, voxels]
    assert float(factors.std(dim=2).max()) < 1e-5  # contrast: one factor for a whole scan
    assert float(factors.min()) >= 0.7
    assert float(factors.max()) <= 1.3
    assert float((factors.mean(2) - 1).abs().mean()) > 0.1
    assert float((factors[:, 0] - factors[:, 1]).abs().max()) > 0.05


def test_boxes_grow_on_all_four_sides() -> None:
    mask = torch.zeros(1, 60, 60, dtype=torch.bool)
    mask[0, 20:40, 20:40] = True
    boxes = [prompts_of(mask, PromptOptions(), torch.Generator().manual_seed(n))[0] for n in range(40)]
    for axis in (0, 1):
        assert {20 - box.low[axis] for box in boxes} == {0, 1, 2, 3, 4}
        assert {box.high[axis] - 39 for box in boxes} == {0, 1, 2, 3, 4}


def assistant(classes: int) -> SliceAssistant:
    def view(_: str) -> ScanView:
        return ScanView(torch.zeros(1, 4, 4, 4), (1.0, 1.0, 1.0))

    return SliceAssistant(answerer_of(Mind()), view, lambda _: None, classes, SliceOptions())


def answered(label: Tensor, classes: int) -> Tensor:
    """Maps of an answer ``[1, 1 + classes, D, H, W]``: one-hot, and where it is of use."""
    one_hot = torch.nn.functional.one_hot(label, classes).movedim(-1, 0).float()
    return torch.cat([one_hot, torch.ones(1, *label.shape)])[None]


def test_nothing_is_learned_between_voxels_of_agreement_and_of_none() -> None:
    label = torch.zeros(4, 4, 4, dtype=torch.long)
    label[2:] = 1
    extra = answered(label, 2)
    extra[:, :, 1] *= 0.5  # as a window cut half a voxel further shows the edge of what the views agree on
    seen = observe(TinyNetwork(), torch.randn(1, 1, 4, 4, 4), [False], extra=extra, step=0)
    loss, facts = assistant(2).loss(seen)
    loss.backward()
    found = gradient(seen)
    assert float(found[:, :, 1].abs().max()) == 0.0
    assert float(found[:, :, [0, 2, 3]].abs().max()) > 0.0
    assert facts["generalist_share"] == pytest.approx(0.75)


def test_a_structure_that_an_answer_lacks_neither_counts_nor_makes_the_others_count_less() -> None:
    """The mean of Eq. 2 is over the classes that are there."""
    label = torch.zeros(4, 4, 4, dtype=torch.long)
    label[2:] = 1
    seen = observe(TinyNetwork(3), torch.randn(1, 1, 4, 4, 4), [False], extra=answered(label, 3), step=0)
    loss, _ = assistant(3).loss(seen)
    probabilities = seen.logits.softmax(dim=1)[0]
    ratios = []
    for value in (0, 1):
        p, g = probabilities[value], (label == value).float()
        ratios.append(float((p - g).abs().pow(1.5).sum() / (p.square().sum() + g.square().sum() + 1e-5)))
    assert float(loss.detach()) == pytest.approx(generalist_weight(0, 10, 0.5) * sum(ratios) / 2, rel=1e-4)
