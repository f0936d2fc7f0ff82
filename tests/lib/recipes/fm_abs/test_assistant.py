"""When the generalist is asked, what about, and what is learned from its answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.generalists.slices import View
from lib.recipes.fm_abs.answerers import CutAnswerer
from lib.recipes.fm_abs.assistant import SliceAssistant, SliceOptions, generalist_weight
from lib.recipes.fm_abs.fusion import NOBODY, Fusion
from lib.recipes.fm_abs.prompts import SlicePrompt
from lib.training.sample import Sample
from lib.training.scan_view import ScanView
from phantoms import blobs, dice
from training_parts import TinyNetwork, gradient, observe

SCAN_SHAPE = (40, 44, 36)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.5 * (1 - math.exp(-5))), (500, 0.5 * (1 - math.exp(-1.25))), (1000, 0.0)]
)
def test_generalist_weight_is_the_papers(step: int, expected: float) -> None:
    assert generalist_weight(step, 1000, 0.5) == pytest.approx(expected)


def test_a_false_spot_of_the_teacher_is_not_asked_about() -> None:
    _, label = blobs()
    teacher = torch.stack([torch.from_numpy(label == n).float() for n in range(3)])
    teacher[:, 1:4, 1:4, 1:4] = torch.tensor([0.0, 1.0, 0.0])[:, None, None, None]
    assistant, sample, *_ = _assistant(SliceOptions(warm_up=0.0), teacher=teacher)
    found = assistant.maps("a", sample, 0)[:3].argmax(0).numpy()
    assert not found[:5, :5, :5].any()
    assert dice(found, label, 1) > 0.85


def test_touching_structures_are_parted_where_the_teacher_parts_them() -> None:
    _, label = blobs()
    split = np.where((label > 0) & (np.arange(label.shape[2]) > 18), 2, np.minimum(label, 1)).astype(np.uint8)
    teacher = torch.stack([torch.from_numpy(split == n).float() for n in range(3)])
    assistant, sample, *_ = _assistant(SliceOptions(warm_up=0.0), teacher=teacher)
    found = assistant.maps("a", sample, 0)[:3].argmax(0).numpy()
    assert dice(found, split, 1) > 0.8
    assert dice(found, split, 2) > 0.8


def _assistant(
    options: SliceOptions, known: Tensor | None = None, teacher: Tensor | None = None
) -> tuple[SliceAssistant, Sample, np.ndarray, list[int]]:
    scan, label = blobs()
    image = torch.from_numpy(scan.array)[None]
    soft = torch.stack([torch.from_numpy(label == n).float() for n in range(3)])
    calls: list[int] = []

    def predict(_: Tensor) -> Tensor:
        calls.append(1)
        return soft if teacher is None else teacher

    view = ScanView(image, (2.0, 2.0, 2.0))
    assistant = SliceAssistant(CutAnswerer(), lambda _: view, lambda _: known, 3, options)
    assistant.start(predict, 100, torch.Generator().manual_seed(0))
    return assistant, Sample(image, soft, torch.ones(1, *image.shape[1:])), label, calls


def test_the_teacher_is_asked_after_the_warm_up_and_again_when_the_answer_is_old() -> None:
    assistant, sample, label, calls = _assistant(SliceOptions(warm_up=0.1, every=0.2))
    assert float(assistant.maps("a", sample, 0).abs().max()) == 0.0
    assert float(assistant.maps("a", sample, 9).abs().max()) == 0.0
    assert calls == []
    maps = assistant.maps("a", sample, 10)
    assert len(calls) == 1
    assert maps.shape == (4, *label.shape)
    found = maps[:3].argmax(0).numpy()
    assert dice(found, label, 1) > 0.85
    assert dice(found, label, 2) > 0.85
    assert torch.equal(assistant.maps("a", sample, 29), maps)
    assert len(calls) == 1
    assistant.maps("b", sample, 29)
    assistant.maps("a", sample, 30)
    assert len(calls) == 3
    assistant.start(lambda _: pytest.fail("not before the warm-up"), 100, torch.Generator())
    assert float(assistant.maps("a", sample, 0).abs().max()) == 0.0


def test_an_earlier_rounds_label_is_asked_about_from_the_start() -> None:
    _, label = blobs()
    earlier = torch.stack([torch.from_numpy(label == n).half() for n in range(3)])
    assistant, sample, _, calls = _assistant(SliceOptions(), known=earlier)
    assert float(assistant.maps("a", sample, 0)[1].sum()) > 100
    assistant.maps("a", sample, 39)
    assert calls == []
    assistant.maps("a", sample, 40)
    assert len(calls) == 1


def test_nothing_is_said_about_a_scan_in_which_the_teacher_sees_nothing() -> None:
    blank = torch.zeros(3, *SCAN_SHAPE)
    blank[0] = 1.0
    assistant, sample, _, calls = _assistant(SliceOptions(warm_up=0.0), teacher=blank)
    assert float(assistant.maps("a", sample, 5).abs().max()) == 0.0
    assert len(calls) == 1


class Little:
    """A specialist, a generalist and a study of tiny scans; counts the questions about each."""

    def __init__(self, options: SliceOptions, steps: int, known: bool = False, pace: int = 5) -> None:
        self.pace = pace
        self.asked: list[tuple[int, str]] = []
        self.spoken: list[tuple[int, str]] = []
        self.step = 0
        self._label = torch.zeros(2, 5, 5, 5)
        self._label[1, 1:4, 1:4, 1:4] = 1.0
        self._label[0] = 1.0 - self._label[1]
        self._sample = Sample(torch.zeros(1, 5, 5, 5), self._label, torch.ones(1, 5, 5, 5))
        earlier = self._label if known else None
        self._assistant = SliceAssistant(self, self._view, lambda _: earlier, 2, options)
        self._assistant.start(lambda _: self._label, steps, torch.Generator().manual_seed(0))

    def _view(self, name: str) -> ScanView:
        self.asked.append((self.step, name))
        return ScanView(torch.zeros(1, 5, 5, 5), (1.0, 1.0, 1.0))

    def open(self, scan: ScanView) -> Little:
        return self

    def answer(self, view: View, prompts: Sequence[SlicePrompt]) -> Tensor:
        return self._label[1]

    def draw(self, name: str, step: int) -> None:
        self.step = step
        if bool(self._assistant.maps(name, self._sample, step).any()):
            self.spoken.append((step, name))


def _train(scans: int, options: SliceOptions, known: bool = False) -> Little:
    """200 steps; in each one of the scans without a label and one of two with one are drawn."""
    study = Little(options, 200, known)
    for step in range(200):
        study.draw(f"scan {step % scans}", step)
        study.draw(f"labelled {step % 2}", step)
    return study


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("scans", [40, 160])
def test_the_questions_of_a_training_are_bounded_whatever_the_study(scans: int, known: bool) -> None:
    study = _train(scans, SliceOptions(), known)
    assert 35 <= len(study.asked) <= 40
    assert all(n <= step / 5 for n, (step, _) in enumerate(study.asked))
    assert [name for _, name in study.asked] == [name for _, name in _train(scans, SliceOptions(), known).asked]
    # An answer about a scan with a label serves half of all windows.
    served = [step for step, name in study.spoken if name.startswith("labelled")]
    assert len(served) > 0.9 * 120
    assert len({name for _, name in study.asked}) > 15


def test_small_studies_are_asked_in_a_few_rounds() -> None:
    study = _train(6, SliceOptions())
    names = [name for _, name in study.asked]
    assert all(3 <= names.count(name) <= 8 for name in set(names))
    assert len(set(names)) == 8
    assert len([name for step, name in study.spoken if step >= 80]) > 0.95 * 2 * 120


def test_answers_that_had_to_make_room_are_missed_until_they_are_asked_anew() -> None:
    study = Little(SliceOptions(warm_up=0.0, every=0.1, answer_bytes=2 * 5**3), 100, pace=0)
    for step, name in enumerate("abca"):
        study.draw(name, step)
    assert study.asked == study.spoken == [(0, "a"), (1, "b"), (2, "c")]
    study.draw("c", 6)
    study.draw("a", 10)
    assert study.asked[3:] == [(10, "a")]
    assert study.spoken[3:] == [(6, "c"), (10, "a")]


def _extra(fused: list[int], classes: int) -> Tensor:
    """Maps of one window of one row."""
    label = torch.tensor(fused).reshape(1, 1, 1, 1, -1)
    parts = [(label == n).float() for n in range(classes)] + [(label != NOBODY).float()]
    return torch.cat(parts, dim=1)


def test_noise_tolerant_dice_of_the_agreed_voxels_by_hand() -> None:
    assistant, *_ = _assistant(SliceOptions())
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0], [0.5, 0.0, 1.0, 0.0], [-2.0, -2.0, 0.0, 1.0]])
    leaf = logits.reshape(1, 3, 1, 1, 4).clone().requires_grad_()
    extra = _extra([0, 1, NOBODY, 0], 3)
    seen = observe(TinyNetwork(classes=3), torch.zeros(1, 1, 1, 1, 4), [False], extra=extra, step=50, steps=100)
    seen = replace(seen, logits=leaf)
    loss, facts = assistant.loss(seen)
    loss.backward()

    p = logits.softmax(0)
    use = [0, 1, 3]
    parts = []
    for value, truth in ((0, [1.0, 0.0, 1.0]), (1, [0.0, 1.0, 0.0])):  # class 2 is not there: it does not count
        own, other = p[value, use], torch.tensor(truth)
        parts.append(float(((own - other).abs() ** 1.5).sum() / ((own**2).sum() + (other**2).sum() + 1e-5)))
    expected = 0.5 * (1 - math.exp(-1.25)) * sum(parts) / 2
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert facts["generalist"] == pytest.approx(sum(parts) / 2, rel=1e-4)
    assert facts["generalist_share"] == pytest.approx(0.75)
    grad = leaf.grad
    assert grad is not None
    assert facts["generalist_gradient"] == pytest.approx(float(grad.norm()), rel=1e-5)
    assert bool((grad[0, :, 0, 0, use].abs() > 0).all())
    assert float(grad[0, :, 0, 0, 2].abs().max()) == 0.0


@pytest.mark.parametrize("human", [True, False])
def test_labelled_and_unlabelled_scans_learn_from_the_generalist(human: bool) -> None:
    assistant, *_ = _assistant(SliceOptions())
    seen = observe(TinyNetwork(), torch.randn(1, 1, 1, 1, 3), [human], extra=_extra([0, 1, 1], 2), step=0, steps=9)
    assistant.loss(seen)[0].backward()
    assert float(gradient(seen).abs().max()) > 0


def test_no_loss_without_answers_or_at_the_end() -> None:
    assistant, *_ = _assistant(SliceOptions())
    for extra, step in ((torch.zeros(1, 3, 1, 1, 3), 0), (_extra([0, 1, 1], 2), 9)):
        seen = observe(TinyNetwork(), torch.randn(1, 1, 1, 1, 3), [False], extra=extra, step=step, steps=9)
        loss, facts = assistant.loss(seen)
        assert float(loss) == 0.0
        assert facts == {}


@pytest.mark.parametrize("fusion", ["majority", "unanimous"])
def test_unanimous_uses_fewer_voxels(fusion: Fusion) -> None:
    _, label = blobs()
    beside = np.roll(label, 2, axis=0)
    teacher = torch.stack([torch.from_numpy(beside == n).float() for n in range(3)])
    assistant, sample, *_ = _assistant(SliceOptions(fusion=fusion, warm_up=0.0), teacher=teacher)
    share = float(assistant.maps("a", sample, 0)[-1].mean())
    assert share > 0.999 if fusion == "majority" else 0.8 < share < 0.999
