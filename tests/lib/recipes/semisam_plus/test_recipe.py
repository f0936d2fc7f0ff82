"""SemiSAM+: the generalists' term and its gradient, when they are asked, and whole runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.generalists import Generalist, create_generalist
from lib.generalists.mind import Mind
from lib.generalists.sam3d import SamMed3d
from lib.generalists.sam3d.session import Session
from lib.recipes import PRESETS, Progress, RecipeOptions, RecipeSettings, RunRequest, RunResult, run_recipe
from lib.recipes.engine.options import Preset
from lib.recipes.engine.progress import QUESTIONS, Reporter
from lib.recipes.semisam_plus.answerers import believed, only_asked
from lib.recipes.semisam_plus.assistant import CollaborationOptions, GeneralistAssistant
from lib.recipes.semisam_plus.consensus import UNSURE, confident
from lib.recipes.semisam_plus.examination import Gains, distorted, ways
from lib.recipes.semisam_plus.question import Kind, PromptMode, Question
from lib.specialists import load_specialist
from lib.specialists.regularisers import Observation
from lib.training.sample import Sample
from lib.training.scan_view import ScanView
from recipe_runs import SCHEMA, CopyPropagator, KilledError, Listener, cases_of
from tiny_sam3d import tiny

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = RecipeOptions(recipe="semisam_plus", seed=3)


class Counting:
    """Answers what it is told to, and counts."""

    points = 5
    knows_size = True

    def __init__(self, name: str = "counting", answer: Tensor | None = None) -> None:
        self.name = name
        self.opened: list[Tensor] = []
        self.asked: list[Question] = []
        self.reply = answer
        self.by_boxes = False

    @property
    def bytes(self) -> int:
        return 1000

    def open(self, scan: ScanView) -> Counting:
        self.opened.append(scan.image)
        return self

    def kinds(self, mode: PromptMode) -> Sequence[Kind]:
        return ("mask", "box") if self.by_boxes else (mode,)

    def answer(self, question: Question) -> Tensor:
        self.asked.append(question)
        if self.reply is not None:
            return self.reply
        assert question.mask is not None
        return question.mask


def assistant(*answerers: Counting, **options: object) -> GeneralistAssistant:
    chosen = replace(CollaborationOptions(ramp=1.0, weight=1.0), **options)  # type: ignore[arg-type]
    view = ScanView(torch.zeros(1, 4, 4, 4), (1.0, 1.0, 1.0))
    return GeneralistAssistant(answerers, lambda name: view, ["human"], 3, chosen)


def specialist(found: int = 1) -> Tensor:
    """A prediction ``[3, 4, 4, 4]`` that sees one structure, or nothing with 0."""
    probabilities = torch.full((3, 4, 4, 4), 0.02)
    probabilities[0] = 0.96
    probabilities[:, :2] = 0.02
    probabilities[found, :2] = 0.96
    return probabilities


def sample(label: int = 1) -> Sample:
    return Sample(torch.zeros(1, 4, 4, 4), specialist(label), torch.ones(1, 4, 4, 4))


def seen(logits: Tensor, extra: Tensor, human: Sequence[bool], *, step: int = 10) -> Observation:
    weights = torch.ones(len(logits), 1, *logits.shape[2:])
    return Observation(
        images=weights,
        targets=logits.detach().softmax(dim=1),
        weights=weights,
        labelled=torch.tensor(human),
        extra=extra,
        features=logits,
        logits=logits,
        step=step,
        steps=10,
    )


def maps(*voxels: tuple[Sequence[float], float]) -> Tensor:
    """Answer and uncertainty of voxels in a row, ``[K, V, 1, 1]``."""
    return torch.tensor([[*answer, unsure] for answer, unsure in voxels]).T.reshape(-1, len(voxels), 1, 1)


def test_the_term_is_the_masked_squared_distance() -> None:
    """Student (1/3, 1/3, 1/3) against (1, 0, 0): 4/9 + 1/9 + 1/9 = 2/3; against itself 0; the unsure voxel is out."""
    helper = assistant(Counting(), threshold=0.2)
    third = [1 / 3] * 3
    extra = maps(([1.0, 0.0, 0.0], 0.1), (third, 0.0), ([0.0, 0.0, 1.0], 0.3))
    logits = torch.zeros(2, 3, 3, 1, 1, requires_grad=True)
    term, facts = helper.loss(seen(logits, torch.stack([extra, extra]), [True, False]))
    assert float(term.detach()) == pytest.approx(2 / 3 / 2)
    assert facts["generalist"] == pytest.approx(1 / 3)
    assert facts["generalist_share"] == pytest.approx(2 / 3)
    term.backward()
    gradient = logits.grad
    assert gradient is not None
    # d/dz of 2/3: s_c (g_c - sum s g) with g = 2 (s - a) = (-4/3, 2/3, 2/3), over the two sure voxels.
    torch.testing.assert_close(gradient[1, :, 0, 0, 0], torch.tensor([-4 / 9, 2 / 9, 2 / 9]) / 2)
    assert not gradient[1, :, 1:].abs().max() > 1e-7
    assert not gradient[0].any()
    assert facts["generalist_gradient"] == pytest.approx(float(gradient.norm()))
    assert facts["generalist_gradient"] > 0.2


def test_generalists_add_up_and_each_has_its_own_mask() -> None:
    helper = assistant(Counting("a"), Counting("b"))
    assert helper.channels == 8
    one, other = ([1.0, 0.0, 0.0], 0.0), ([0.0, 1.0, 0.0], 0.0)
    logits = torch.zeros(1, 3, 1, 1, 1, requires_grad=True)
    both, _ = helper.loss(seen(logits, torch.cat([maps(one), maps(other)])[None], [False]))
    assert float(both.detach()) == pytest.approx(4 / 3)
    unsure = (other[0], 1.0)
    single, facts = helper.loss(seen(logits, torch.cat([maps(one), maps(unsure)])[None], [False]))
    assert float(single.detach()) == pytest.approx(2 / 3)
    assert facts["generalist_share"] == pytest.approx(0.5)


def test_the_weight_rises() -> None:
    helper = assistant(Counting(), ramp=0.4, weight=3.0)
    extra = maps(([1.0, 0.0, 0.0], 0.0))[None]
    logits = torch.zeros(1, 3, 1, 1, 1, requires_grad=True)
    values = [float(helper.loss(seen(logits, extra, [False], step=s))[0].detach()) for s in (0, 2, 4, 9)]
    assert values == pytest.approx([2 * np.exp(-5), 2 * np.exp(-1.25), 2.0, 2.0])


def test_nobody_sure_means_no_term() -> None:
    helper = assistant(Counting())
    logits = torch.zeros(2, 3, 1, 1, 1, requires_grad=True)
    unsure, sure = (maps(([0.0, 0.0, 1.0], u))[None].repeat(2, 1, 1, 1, 1) for u in (1.0, 0.0))
    for extra, human in ((unsure, [False, False]), (sure, [True, True])):
        term, facts = helper.loss(seen(logits, extra, human))
        assert float(term) == 0.0
        assert facts == {}


def test_perfect_agreement_is_no_error() -> None:
    helper = assistant(Counting())
    logits = torch.zeros(1, 3, 1, 1, 1, requires_grad=True)
    term, facts = helper.loss(seen(logits, maps(([1 / 3] * 3, 0.0))[None], [False]))
    assert float(term.detach()) == pytest.approx(0.0, abs=1e-12)
    assert facts["generalist_gradient"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("mode", ["both", "mask", "points"])
def test_scans_without_any_prompt_are_left_alone(mode: str) -> None:
    model = Counting()
    helper = assistant(model, mode=mode)
    helper.start(lambda image: specialist(found=0), 10, torch.Generator())
    helper.maps("scan", sample(label=0), 0)
    extra = helper.maps("scan", sample(), 10)
    assert model.opened == []
    logits = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    assert helper.loss(seen(logits, extra[None], [False]))[1] == {}


def test_who_knows_no_sizes_only_moves_borders() -> None:
    grown = torch.full((3, 4, 4, 4), 0.02)
    grown[1] = 0.96
    grown[0, 3] = 2.0  # the answer is too large, but says where the structure surely is not
    grown /= grown.sum(dim=0)
    sample = Sample(torch.zeros(1, 4, 4, 4), specialist(), torch.ones(4, 4, 4))
    sizes = specialist().half().float().flatten(1).sum(dim=1)
    found = {}
    for knows in (True, False):
        answerer = Counting(answer=grown)
        answerer.knows_size = knows
        helper = assistant(answerer)
        helper.start(lambda image: specialist(), 10, torch.Generator().manual_seed(0))
        found[knows] = helper.maps("a", sample, 0)[:3].flatten(1).sum(dim=1)
    assert found[True][1] > 1.3 * sizes[1]
    torch.testing.assert_close(found[False], sizes, rtol=0.02, atol=0.1)


def test_answers_are_kept_until_they_are_old_and_scans_are_encoded_once() -> None:
    model = Counting()
    helper = assistant(model, every=0.25, pace=4, answers=3)
    predictions: list[Tensor] = []

    def predict(image: Tensor) -> Tensor:
        predictions.append(image)
        return specialist(found=2)

    helper.start(predict, 40, torch.Generator().manual_seed(0))
    assert helper.maps("human", sample(), 0)[3].min() == 1.0
    assert model.opened == []

    first = helper.maps("a", sample(), 0)
    torch.testing.assert_close(first[:3].sum(dim=0), torch.ones(4, 4, 4), atol=2e-3, rtol=0)
    assert first[3].max() < 0.5
    assert len(model.asked) == 3
    assert set(first[:3].argmax(dim=0).unique().tolist()) == {0, 1}  # what its label says
    helper.maps("b", sample(), 1)
    assert torch.equal(helper.maps("a", sample(), 9), first)
    assert predictions == []

    anew = helper.maps("a", sample(), 10)
    assert set(anew[:3].argmax(dim=0).unique().tolist()) == {0, 2}  # what the specialist sees
    for step in (20, 30):
        helper.maps("a", sample(), step)
    before = len(model.asked)
    helper.maps("b", sample(), 31)
    assert len(model.asked) == before + 3
    assert len(predictions) == 4
    assert len(model.opened) == 2

    helper.start(predict, 40, torch.Generator())
    assert set(helper.maps("a", sample(), 0)[:3].argmax(dim=0).unique().tolist()) == {0, 1}
    assert len(model.opened) == 2


def asked_in_training(scans: int, steps: int, **options: object) -> tuple[int, list[int], list[bool]]:
    """Draw a scan a step: questions from labels (these see structure 1), steps of others, and whether maps came."""
    model = Counting()
    helper = assistant(model, answers=1, **options)
    step, later = 0, []

    def predict(image: Tensor) -> Tensor:
        later.append(step)
        return specialist(found=2)

    helper.start(predict, steps, torch.Generator().manual_seed(0))
    spoken = []
    for step in range(steps):
        spoken.append(bool(helper.maps(f"scan {step % scans}", sample(), step)[3].min() < 1.0))
    first = sum(question.asked == (1,) for question in model.asked)
    assert first + len(later) == len(model.asked)
    return first, later, spoken


@pytest.mark.parametrize("scans", [3, 20, 40])
def test_questions_to_the_specialist_in_training_keep_their_pace(scans: int) -> None:
    first, later, spoken = asked_in_training(scans, 100, every=0.1, pace=5)
    assert first == scans
    assert 10 <= len(later) <= 20
    assert min(later) >= 10
    assert all(n <= step / 5 for n, step in enumerate(later))
    assert all(spoken)


def test_an_answer_that_had_to_make_room_is_not_asked_about_its_label_again() -> None:
    room = 3 * 4 * 4**3 * 2  # bytes for the float16 maps of three scans
    first, later, spoken = asked_in_training(8, 100, every=0.25, pace=10, answer_bytes=room)
    assert first == 8
    assert 5 <= len(later) <= 10
    assert min(later) >= 25
    assert all(spoken[:8])
    assert not any(spoken[8:13])  # those of the others are left
    assert all(spoken[step] for step in later)


def test_nothing_is_learned_where_a_structure_may_be_that_nobody_asked_about() -> None:
    """Structure 2 leads nowhere; where the specialist gives it 0.4, all answers repeat that and agree."""
    prediction = specialist()
    prediction[:, 3] = torch.tensor([0.58, 0.02, 0.4])[:, None, None]
    helper = assistant(Counting(answer=specialist()), answers=3)
    helper.start(lambda image: prediction, 10, torch.Generator())
    extra = helper.maps("scan", Sample(torch.zeros(1, 4, 4, 4), prediction, torch.ones(1, 4, 4, 4)), 0)
    assert extra[3, 3].min() == 1.0
    assert extra[3, :3].max() < 0.01
    logits = prediction.log()[None].requires_grad_()
    helper.loss(seen(logits, extra[None], [False]))[0].backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, 3].any()


def certain(classes: Tensor) -> Tensor:
    """Probabilities ``[3, D, H, W]`` of classes ``[D, H, W]``."""
    return torch.nn.functional.one_hot(classes, 3).movedim(-1, 0).float()


def two_cubes(first: int = 2, second: int = 2) -> Tensor:
    """Classes 1 and 2 as cubes that begin at these voxels of the last axis, ``[12, 12, 12]``."""
    classes = torch.zeros(12, 12, 12, dtype=torch.long)
    classes[1:5, 2:8, first : first + 6] = 1
    classes[7:11, 2:8, second : second + 6] = 2
    return classes


def examined(
    right: Tensor, reply: Tensor, *, instead: Counting | None = None, answerer: Counting | None = None
) -> tuple[Tensor, Counting]:
    """Maps about a scan whose current label is ``right``, answered by ``reply``; the outlined scan is like it."""
    if answerer is None:
        answerer = Counting(answer=certain(reply))
        answerer.by_boxes = True
    outline = certain(right)
    helper = GeneralistAssistant(
        [answerer],
        lambda _: ScanView(torch.zeros(1, 12, 12, 12), (1.0, 1.0, 1.0)),
        ["outlined"],
        3,
        CollaborationOptions(),
        outline=lambda name: outline,
        instead=instead,
    )
    helper.start(lambda image: outline, 100, torch.Generator().manual_seed(0))
    return helper.maps("new", Sample(torch.zeros(1, 12, 12, 12), outline, torch.ones(1, 12, 12, 12)), 0), answerer


EXAM = 8
"""Questions of an examination: two wrong outlines, two structures, by mask and by boxes."""


def test_a_model_is_not_asked_about_a_structure_whose_outline_it_cannot_correct() -> None:
    truth = two_cubes()
    maps, answerer = examined(truth, two_cubes(second=6))  # the second structure 4 of 6 voxels off: Dice 1/3
    assert {question.asked for question in answerer.asked[:EXAM]} == {(1,), (2,)}
    assert {question.asked for question in answerer.asked[EXAM:]} == {(1,)}
    sure = confident(maps[None, 3:], 0.2)[0, 0] > 0
    assert sure[truth == 1].all()
    assert not sure[truth == 2].any()


def test_a_model_that_corrects_nothing_is_asked_no_more() -> None:
    maps, answerer = examined(two_cubes(), two_cubes(7, 7))
    assert len(answerer.asked) == EXAM
    assert (maps[3] == UNSURE).all()


def test_mind_is_asked_in_the_place_of_a_model_that_corrects_nothing() -> None:
    truth = two_cubes()
    walk = Counting("mind", certain(truth))
    walk.knows_size = False
    maps, answerer = examined(truth, two_cubes(7, 7), instead=walk)
    assert (len(answerer.asked), len(walk.asked)) == (EXAM, 4)
    assert maps[:3].float().argmax(dim=0).equal(truth)
    assert (maps[3] == 0).all()
    maps, answerer = examined(truth, two_cubes(second=6), instead=Counting("mind", certain(truth)))
    assert len(answerer.asked) == EXAM + 4  # one structure is enough


def of_two(
    first: Counting, second: Counting | None = None, *, seen: Tensor | None = None, **options: object
) -> GeneralistAssistant:
    """Generalists that are examined on two cubes; a specialist in training sees ``seen``."""
    outline = certain(two_cubes())
    helper = GeneralistAssistant(
        [one for one in (first, second) if one is not None],
        lambda _: ScanView(torch.zeros(1, 12, 12, 12), (1.0, 1.0, 1.0)),
        ["outlined"],
        3,
        replace(CollaborationOptions(every=0.1, pace=1), **options),  # type: ignore[arg-type]
        outline=lambda name: outline,
    )
    helper.start(lambda image: outline if seen is None else seen, 100, torch.Generator().manual_seed(0))
    return helper


def carried_over(second: int = 3) -> Sample:
    """A scan whose label has the second cube one voxel off, and trusts nothing."""
    label = certain(two_cubes(second=second))
    return Sample(torch.zeros(1, 12, 12, 12), label, torch.full((1, 12, 12, 12), 0.3))


def test_where_the_answers_of_a_model_that_knows_agree_they_are_learned_as_the_label() -> None:
    truth = two_cubes()
    helper = of_two(Counting(answer=certain(truth)))
    target, weight = helper.label(carried_over(), helper.maps("new", carried_over(), 0))
    assert target.argmax(dim=0).equal(truth)
    assert (weight == 1).all()
    told = carried_over()
    assert helper.label(told, helper.maps("outlined", told, 0))[0].equal(told.target), "a human label stays"


def test_what_a_model_does_not_know_stays_as_it_was_carried_over() -> None:
    known = Counting(answer=certain(two_cubes(second=6)))  # the second structure far off: it cannot correct it
    helper = of_two(known)
    sample = carried_over()
    target, weight = helper.label(sample, helper.maps("new", sample, 0))
    second = sample.target.argmax(dim=0) == 2
    assert (target.argmax(dim=0) == 2).equal(second)
    assert (weight[0][second] == 0.3).all()


def test_features_alone_correct_no_label() -> None:
    walk = Counting("mind", certain(two_cubes()))
    walk.knows_size = False
    helper = of_two(walk)
    sample = carried_over()
    target, weight = helper.label(sample, helper.maps("new", sample, 0))
    assert target.equal(sample.target)
    assert weight.equal(sample.weight)


def test_a_model_that_knows_is_asked_about_a_label_once() -> None:
    """Beside it, one that gives features is asked about the specialist's predictions as before."""
    model, walk = Counting(answer=certain(two_cubes())), Counting("mind", certain(two_cubes()))
    walk.knows_size = False
    alone = of_two(model)
    first = alone.maps("new", carried_over(), 0)
    count = len(model.asked)
    assert all(alone.maps("new", carried_over(), step).equal(first) for step in (20, 60, 99))
    assert len(model.asked) == count

    both = of_two(model, walk, seen=certain(two_cubes(3, 3)))
    both.maps("new", carried_over(), 0)
    count, by_walk = len(model.asked), len(walk.asked)
    both.maps("new", carried_over(), 50)
    assert (len(model.asked), len(walk.asked)) == (count, by_walk + 4)


def test_a_model_that_knows_is_asked_about_the_label_again_when_its_answer_had_to_make_room() -> None:
    model = Counting(answer=certain(two_cubes()))
    helper = of_two(model, seen=torch.zeros(3, 12, 12, 12), answer_bytes=4 * 12**3 * 2)
    helper.maps("first", carried_over(), 0)
    helper.maps("second", carried_over(), 1)
    again = helper.maps("first", carried_over(), 50)
    assert again[:3].argmax(dim=0).equal(two_cubes())


def test_each_structure_is_asked_about_in_the_first_way_in_which_it_is_corrected() -> None:
    truth = two_cubes()

    class Choosy(Counting):
        """Knows the first structure by boxes only, the second one by its mask only."""

        def answer(self, question: Question) -> Tensor:
            super().answer(question)
            return certain(two_cubes(2 if 1 in question.boxes else 6, 6 if 2 in question.boxes else 2))

    answerer = Choosy()
    answerer.by_boxes = True
    maps, _ = examined(truth, truth, answerer=answerer)
    assert {question.boxes for question in answerer.asked[EXAM:]} == {frozenset({1})}
    assert not any(len(question.points) for question in answerer.asked)
    assert maps[:3].float().argmax(dim=0).equal(truth)
    assert (maps[3] == 0).all()


def test_a_model_has_to_correct_the_larger_and_the_smaller_outline() -> None:
    gains: Gains = {1: {"mask": [0.02, 0.01], "box": [0.3, 0.3]}, 2: {"mask": [-0.01, 0.1], "box": [0.0, 0.02]}}
    assert ways({**gains, 3: {"mask": [-0.01, 0.1]}, 4: {"mask": [0.004, 0.004]}}) == {
        1: "mask",
        2: "box",
        3: None,
        4: None,
    }


def test_a_wrong_outline_is_wrong_in_size_and_place() -> None:
    truth = torch.zeros(20, 20, 1, dtype=torch.long)
    truth[4:14, 5:15] = 1
    outline = certain(truth)
    for sign in (1, -1):
        wrong = distorted(outline, sign)
        torch.testing.assert_close(wrong.sum(dim=0), torch.ones(20, 20, 1))
        assert (float(wrong[1].sum()) - 100) * sign > 10
        found = (wrong.argmax(dim=0) == 1).nonzero().float().mean(dim=0) - (truth == 1).nonzero().float().mean(dim=0)
        assert (found[:2] * sign > 0.2).all()
    assert distorted(certain(torch.zeros(4, 4, 4, dtype=torch.long)), 1)[0].min() == 1


def test_an_answer_about_something_else_counts_as_the_label_it_was_asked_about() -> None:
    truth = two_cubes()
    prediction = certain(truth)
    answer = certain(two_cubes(second=6))
    assert believed(answer, prediction, (1, 2)) == (1,)
    assert believed(certain(two_cubes(3, 3)), prediction, (1, 2)) == (1, 2)
    joined = only_asked(answer, believed(answer, prediction, (1, 2)), prediction)
    assert joined.argmax(dim=0).equal(truth)


def test_memory_for_encoded_scans_is_bounded() -> None:
    model = Counting()
    helper = assistant(model, pace=0, every=0.0, open_bytes=2500)
    helper.start(lambda image: specialist(), 100, torch.Generator())
    for step, name in enumerate(["a", "b", "c", "b", "c"]):
        helper.maps(name, sample(), step)
    assert len(model.opened) == 3
    helper.maps("a", sample(), 90)
    assert len(model.opened) == 4


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(2, 2, 6, 2, (4, 8, 8), 6_000, 6_000))


def run(
    study: Path,
    folder: Path,
    listener: Listener | None = None,
    options: RecipeOptions = OPTIONS,
    generalist: Generalist | None = None,
    further: Sequence[Generalist] = (),
) -> RunResult:
    return run_recipe(
        RunRequest(cases_of(study), SCHEMA, options, RecipeSettings(), folder),
        generalist=generalist or create_generalist("mind"),
        further=further,
        propagator=CopyPropagator(),
        observer=listener or Listener(),
    )


def labels_of(result: RunResult, study: Path) -> dict[str, np.ndarray]:
    return {
        name: read_label(label.path, read_volume(study / f"{name}.nii.gz"), SCHEMA)
        for name, label in result.pseudo_labels.items()
    }


def gradients(result: RunResult, listener: Listener) -> list[float]:
    assert result.rounds == listener.rounds[-1].index
    return [s.metrics["generalist_gradient"] for s in listener.steps if "generalist_gradient" in s.metrics]


@pytest.mark.slow
def test_the_time_left_counts_the_questions_that_are_still_to_come(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    reporters: list[Reporter] = []
    told = Reporter.asked

    def asked(reporter: Reporter) -> None:
        told(reporter)
        stage = reporter._stages[QUESTIONS]
        left.append(stage.total - stage.done)
        reporters[:] = [reporter]

    monkeypatch.setattr(Reporter, "asked", asked)
    listener = Listener()
    run(study, tmp_path / "model", listener)
    assert left
    assert left == sorted(left, reverse=True)
    assert [reporter.seconds_left() for reporter in reporters] == [0]
    assert {step.stage for step in listener.steps} <= {"preparation", "propagation", "training", "prediction"}


def test_a_whole_run_and_one_that_was_killed(study: Path, tmp_path: Path) -> None:
    whole = Listener()
    result = run(study, tmp_path / "whole", whole)
    assert [r.index for r in whole.rounds] == [0, 1, 2]
    assert set(result.pseudo_labels) == {"case_2", "case_3", "case_4"}
    found = gradients(result, whole)
    assert found
    assert min(found) > 0.0
    notes = load_specialist(result.checkpoint).notes
    assert (notes["recipe"], notes["round"]) == ("semisam_plus", 2)
    labels = labels_of(result, study)
    assert all(label.any() for label in labels.values())

    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.round == 2 and progress.stage == "prediction":
                raise KilledError

    with pytest.raises(KilledError):
        run(study, tmp_path / "killed", Fragile())
    resumed = run(study, tmp_path / "killed")
    assert resumed.resumed_at == 2
    again = labels_of(resumed, study)
    assert again.keys() == labels.keys()
    for name, label in labels.items():
        np.testing.assert_array_equal(again[name], label)


@pytest.mark.slow
def test_a_promptable_model_with_random_weights(study: Path, tmp_path: Path) -> None:
    listener = Listener()
    options = replace(OPTIONS, rounds=1, prompts="points")
    result = run(study, tmp_path / "runs", listener, options, tiny())
    assert min(gradients(result, listener), default=0.0) > 0.0
    assert len(result.pseudo_labels) == 3


@pytest.mark.slow
def test_two_generalists(study: Path, tmp_path: Path) -> None:
    """All are asked, and it is noted who was; with other ones an unfinished run is not continued."""
    options = replace(OPTIONS, rounds=1, prompts="mask")

    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.stage == "prediction":
                raise KilledError

    def unfinished(further: Sequence[Generalist]) -> str:
        with pytest.raises(KilledError):
            run(study, tmp_path / "runs", Fragile(), options, Mind(), further)
        return max((tmp_path / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime_ns).name

    alone = unfinished([])
    both = unfinished([tiny()])
    assert both != alone
    assert "asked" not in json.loads((tmp_path / "runs" / alone / "run.json").read_text())
    written = json.loads((tmp_path / "runs" / both / "run.json").read_text())
    assert (written["generalist"], written["asked"]) == (["mind", ""], [["mind", ""], ["sam_med3d", ""]])

    result = run(study, tmp_path / "runs", Listener(), options, Mind(), [tiny()])
    assert result.folder.name == both
    assert result.resumed_at is not None
    assert len(result.pseudo_labels) == 3
    assert load_specialist(result.checkpoint).notes["generalists"] == {"mind": "", "sam_med3d": ""}
    assert "mind, sam_med3d" in (result.folder / "report.html").read_text()

    class Asked(SamMed3d):
        opened = 0

        def open(self, image: Tensor, spacing: Sequence[float]) -> Session:
            self.opened += 1
            return super().open(image, spacing)

    listener, model = Listener(), tiny(kind=Asked)
    result = run(study, tmp_path / "anew", listener, options, Mind(), [model])
    assert isinstance(model, Asked)
    assert model.opened > 0
    assert min(gradients(result, listener), default=0.0) > 0.0
