"""The parts of FM-ABS: losses on annotated voxels, prompts on slices, three views, and when the generalist is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.generalists.base import Prompts
from lib.generalists.mind import Mind
from lib.generalists.sam2d.adapter import SliceGeneralist
from lib.generalists.slices import View
from lib.recipes.fm_abs.answerers import CutAnswerer, SliceModelAnswerer, VolumeModelAnswerer, answerer_of
from lib.recipes.fm_abs.assistant import VIEWS, SliceAssistant, SliceOptions, generalist_weight
from lib.recipes.fm_abs.fusion import NOBODY, Fusion, fuse
from lib.recipes.fm_abs.plane_labels import PartialObjective
from lib.recipes.fm_abs.prompts import PromptOptions, SlicePrompt, large_parts, prompts_of
from lib.specialists.losses.consistency_mae import consistency_mae
from lib.specialists.losses.partial_cross_entropy import partial_cross_entropy
from lib.specialists.regularisers.perturbed_teacher import PerturbedTeacher
from lib.training.sample import Sample
from lib.training.scan_view import ScanView
from phantoms import blobs, dice
from training_parts import TinyNetwork, gradient, observe

SCAN_SHAPE = (40, 44, 36)


# --- the supervised loss ----------------------------------------------------------------------------------------------


def test_partial_cross_entropy_is_the_mean_over_annotated_voxels_of_each_window() -> None:
    logits = torch.zeros(3, 2, 1, 1, 4)
    logits[0, 1, 0, 0] = torch.tensor([1.0, -2.0, 9.0, 9.0])
    logits[1, 1] = 3.0
    target = torch.zeros(3, 2, 1, 1, 4)
    target[:, 0] = 1.0
    weight = torch.zeros(3, 1, 1, 1, 4)
    weight[0, 0, 0, 0, :2] = torch.tensor([1.0, 0.5])
    weight[1] = 1.0
    first = (math.log1p(math.exp(1.0)) + 0.5 * math.log1p(math.exp(-2.0))) / 1.5
    second = math.log1p(math.exp(3.0))
    assert float(partial_cross_entropy(logits, target, weight)) == pytest.approx((first + second) / 2, rel=1e-5)
    assert float(partial_cross_entropy(logits, target, torch.zeros_like(weight))) == 0.0


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_no_gradient_off_the_planes_and_none_from_scans_without_a_label(overlap: float) -> None:
    images = torch.randn(2, 1, 4, 4, 4)
    targets = torch.zeros(2, 2, 4, 4, 4)
    targets[:, 0] = 1.0
    targets[:, 0, 1, :2] = 0.0
    targets[:, 1, 1, :2] = 1.0
    weights = torch.zeros(2, 1, 4, 4, 4)
    weights[:, :, 1] = 1.0
    seen = observe(TinyNetwork(), images, [True, False], targets=targets, weights=weights)
    loss, metrics = PartialObjective(overlap)(seen)
    loss.backward()
    grad = gradient(seen)
    assert bool((grad[0, :, 1].abs() > 0).all())
    assert float(grad[0, :, [0, 2, 3]].abs().max()) == 0.0
    assert float(grad[1].abs().max()) == 0.0
    assert metrics["human_loss"] == pytest.approx(float(loss.detach()))


def test_a_batch_without_a_label_gives_no_loss() -> None:
    seen = observe(TinyNetwork(), torch.randn(1, 1, 2, 2, 2), [False])
    loss, metrics = PartialObjective()(seen)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert metrics == {}


# --- the consistency --------------------------------------------------------------------------------------------------


def test_consistency_is_the_mean_absolute_difference() -> None:
    student = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1, 1).requires_grad_()
    teacher = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1, 1).requires_grad_()
    loss = consistency_mae(student, teacher)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.3)
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.flatten().tolist() == pytest.approx([0.5, -0.5])


def _consistency(step: int, human: list[bool]) -> tuple[float, Tensor]:
    torch.manual_seed(0)
    regulariser = PerturbedTeacher()
    student = TinyNetwork()
    regulariser.start(student, 2, 100, torch.Generator().manual_seed(0))
    with torch.no_grad():
        student.head.weight += torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1, 1)
    seen = observe(student, torch.randn(2, 1, 4, 4, 4), human, step=step, steps=100)
    loss = regulariser.loss(seen)
    loss.backward()
    return float(loss.detach()), gradient(seen)


def test_consistency_acts_on_all_scans_and_its_weight_rises_as_in_the_paper() -> None:
    losses = []
    for step in (0, 50, 100):
        loss, grad = _consistency(step, [True, False])
        assert grad[0].abs().max() > 0
        assert grad[1].abs().max() > 0
        losses.append(loss)
    # lambda_c(t) = 0.1 exp(-5 (1 - t / t_max)^2)
    assert losses[0] / losses[2] == pytest.approx(math.exp(-5.0), rel=1e-5)
    assert losses[1] / losses[2] == pytest.approx(math.exp(-1.25), rel=1e-5)


# --- the generalist's weight, prompts and views -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.5 * (1 - math.exp(-5))), (500, 0.5 * (1 - math.exp(-1.25))), (1000, 0.0)]
)
def test_generalist_weight_is_the_papers(step: int, expected: float) -> None:
    assert generalist_weight(step, 1000, 0.5) == pytest.approx(expected)


def test_boxes_and_points_come_from_each_slice_of_a_mask() -> None:
    mask = torch.zeros(5, 60, 50, dtype=torch.bool)
    mask[1, 10:30, 20:40] = True
    mask[3, 0:8, 45:50] = True
    mask[4, 7, 7] = True  # a speck
    seen = set()
    for seed in range(20):
        one, two = prompts_of(mask, PromptOptions(), torch.Generator().manual_seed(seed))
        assert (one.index, two.index) == (1, 3)
        assert 6 <= one.low[0] <= 10
        assert 29 <= one.high[0] <= 33
        assert two.low[0] == 0  # a box ends with the slice
        assert two.high[1] == 49
        assert one.points.shape == two.points.shape == (5, 2)
        assert bool(mask[1][tuple(one.points.T)].all())
        assert bool(mask[3][tuple(two.points.T)].all())
        seen.add((one.low, one.high))
    assert len(seen) > 10
    wide = PromptOptions(expand_share=10.0)
    assert all(prompts_of(mask, wide, torch.Generator().manual_seed(s))[0].high[0] <= 39 for s in range(20))
    assert prompts_of(torch.zeros_like(mask), wide, torch.Generator()) == []


def test_each_part_of_a_mask_has_its_own_box_and_specks_have_none() -> None:
    mask = torch.zeros(2, 40, 40, dtype=torch.bool)
    mask[1, 5:11, 5:11] = mask[1, 20:28, 22:30] = mask[1, 35:37, 2:5] = True
    prompts = prompts_of(mask, PromptOptions(expand=0), torch.Generator())
    assert [(p.index, p.low, p.high) for p in prompts] == [(1, (20, 22), (27, 29)), (1, (5, 5), (10, 10))]
    sizes = [int(part.sum()) for part in large_parts(mask)]
    assert sizes == [64, 36]


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


def test_fusion_tables() -> None:
    views = torch.tensor([[0, 1, 1, 1, 0, 2, 2], [0, 1, 1, 0, 1, 1, 2], [0, 1, 0, 0, 2, 1, 0]], dtype=torch.uint8)
    views = views.reshape(3, 1, 1, 7)
    assert fuse(views, "majority").flatten().tolist() == [0, 1, 1, 0, NOBODY, 1, 2]
    unanimous = [0, 1, NOBODY, NOBODY, NOBODY, NOBODY, NOBODY]
    assert fuse(views, "unanimous").flatten().tolist() == unanimous


# --- who answers ------------------------------------------------------------------------------------------------------


def test_cuts_answer_boxes_and_points_in_every_view() -> None:
    scan, label = blobs()
    answers = CutAnswerer().open(ScanView(torch.from_numpy(scan.array)[None], (2.0, 2.0, 2.0)))
    for view in VIEWS:
        mask = view.stack(torch.from_numpy(label == 1))
        prompts = prompts_of(mask, PromptOptions(), torch.Generator().manual_seed(0))
        found = (answers.answer(view, prompts) >= 0.5).numpy()
        assert dice(found, label == 1, True) > 0.85
        assert not view.stack(torch.from_numpy(found))[~mask.flatten(1).any(1)].any()


def test_a_constant_slice_is_answered() -> None:
    answers = CutAnswerer().open(ScanView(torch.zeros(1, 12, 12, 12), (1.0, 1.0, 1.0)))
    prompt = SlicePrompt(4, (2, 2), (9, 9), torch.tensor([[5, 5]]))
    assert bool(answers.answer(View(2), [prompt])[5, 6, 4] >= 0) is True


class BoxModel:
    """A 3D model that fills the box it is given, and remembers what it was asked."""

    name = "box"
    prompts = frozenset({"points", "box"})

    def __init__(self) -> None:
        self.asked: list[Prompts] = []
        self.shape: Sequence[int] = ()

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        return image

    def open(self, image: Tensor, spacing: Sequence[float]) -> BoxModel:
        self.shape = image.shape[1:]
        return self

    def segment(self, prompts: Prompts) -> Tensor:
        self.asked.append(prompts)
        found = torch.zeros(*self.shape)
        assert prompts.box is not None
        low, high = prompts.box.long().tolist()
        found[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = 1.0
        return found


def test_a_3d_model_is_asked_once_a_view_at_the_right_places() -> None:
    model = BoxModel()
    assert isinstance(answerer_of(model), VolumeModelAnswerer)
    mask = torch.zeros(*SCAN_SHAPE, dtype=torch.bool)
    mask[5:15, 8:20, 10:16] = True
    answers = answerer_of(model).open(ScanView(torch.zeros(1, *SCAN_SHAPE), (1.0, 1.0, 1.0)))
    exact = PromptOptions(expand=0)
    for view in VIEWS:
        found = answers.answer(view, prompts_of(view.stack(mask), exact, torch.Generator().manual_seed(0)))
        assert torch.equal(found > 0.5, mask)
    assert len(model.asked) == 3
    for prompts in model.asked:
        assert len(prompts.points) == 10
        assert bool(mask[tuple(prompts.points.long().T)].all())


def test_a_2d_model_is_asked_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    asked: list[int] = []

    def decide(self: object, index: int, question: object, before: object, **_: object) -> tuple[Tensor, float]:
        asked.append(index)
        rectangle = question.rectangle  # type: ignore[attr-defined]
        canvas = self._canvas  # type: ignore[attr-defined]
        high, wide = canvas.mask
        logits = torch.full((high, wide), -8.0)
        scale = canvas.patch / 4
        x0, y0, x1, y1 = ((rectangle + 0.5) / scale).round().long().tolist()
        logits[y0:y1, x0:x1] = 8.0
        return logits, 1.0

    monkeypatch.setattr("lib.recipes.fm_abs.answerers.SliceAnswers.decide", decide)
    model = _tiny_slice_model()
    assert isinstance(answerer_of(model), SliceModelAnswerer)
    mask = torch.zeros(*SCAN_SHAPE, dtype=torch.bool)
    mask[8:24, 8:32, 12:20] = True
    answers = answerer_of(model).open(ScanView(torch.rand(1, *SCAN_SHAPE), (1.0, 1.0, 1.0)))
    for view in VIEWS:
        asked.clear()
        stack = view.stack(mask)
        found = answers.answer(view, prompts_of(stack, PromptOptions(expand=0), torch.Generator().manual_seed(0)))
        assert asked == torch.nonzero(stack.flatten(1).any(1)).flatten().tolist()
        assert dice((found >= 0.5).numpy(), mask.numpy(), True) > 0.9


@pytest.mark.parametrize("structures", [1, 2, 4])
def test_each_slice_of_a_view_is_encoded_once_however_many_structures(structures: int) -> None:
    seen = torch.zeros(*SCAN_SHAPE, dtype=torch.long)
    for value in range(1, structures + 1):
        seen[4:28, 4:36, 6 * value - 2 : 6 * value + 2] = value
    model = _tiny_slice_model()
    assistant = SliceAssistant(
        answerer_of(model),
        lambda _: ScanView(torch.rand(1, *SCAN_SHAPE), (1.0, 1.0, 1.0)),
        lambda _: None,
        structures + 1,
        SliceOptions(),
    )
    assistant._ask("scan", torch.nn.functional.one_hot(seen, structures + 1).movedim(-1, 0).float())
    held = [torch.nonzero(view.stack(seen > 0).flatten(1).any(1)).numel() for view in VIEWS]
    assert model.encoded == sum(held)


def _tiny_slice_model() -> SliceGeneralist:
    from lib.generalists.sam2d.adapter import MODELS

    class Nothing:
        size, patch = 256, 16

        def masks(self, *_: object, **__: object) -> tuple[Tensor, Tensor]:
            return torch.full((1, 64, 64), 8.0), torch.ones(1)

    class Counting(SliceGeneralist):
        """Notes how many slices it encodes."""

        encoded = 0

        def embed(self, slices: Tensor, canvas: object) -> Tensor:
            self.encoded += len(slices)
            return torch.zeros(len(slices), 4, 16, 16)

    return Counting(MODELS["mobile_sam"], Nothing())  # type: ignore[arg-type]


def test_without_prompts_the_cut_stands_in() -> None:
    assert isinstance(answerer_of(Mind()), CutAnswerer)


# --- when it is asked, and what is learned ----------------------------------------------------------------------------


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
