"""Who answers for the slices of a scan: 2D models, 3D models, graph cuts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lib.generalists.base import Prompts
from lib.generalists.mind import Mind
from lib.generalists.sam2d.adapter import SliceGeneralist
from lib.generalists.slices import View
from lib.recipes.fm_abs.answerers import CutAnswerer, SliceModelAnswerer, VolumeModelAnswerer, answerer_of
from lib.recipes.fm_abs.assistant import VIEWS, SliceAssistant, SliceOptions
from lib.recipes.fm_abs.prompts import PromptOptions, SlicePrompt, prompts_of
from lib.training.scan_view import ScanView
from phantoms import blobs, dice

SCAN_SHAPE = (40, 44, 36)


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
        canvas = self.canvas  # type: ignore[attr-defined]
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
