"""Regularisers, moving averages and ramps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from lib.specialists import SpecialistSpec
from lib.specialists.augment import Augmentation
from lib.specialists.ema import ema_rate, teacher_of, update_teacher
from lib.specialists.networks import SpecialistNetwork
from lib.specialists.noise import input_noise
from lib.specialists.ramps import linear_ramp, poly_decay, sigmoid_ramp
from lib.specialists.regularisers import (
    REGULARISERS,
    AmbiguityMeanTeacher,
    DeepAdversarial,
    DualTask,
    MeanTeacher,
    Regulariser,
    Supervised,
    UncertaintyAwareMeanTeacher,
    build_regulariser,
)
from lib.specialists.regularisers.perturbed_teacher import PerturbedTeacher
from lib.specialists.regularisers.teacher import TeacherRegulariser
from lib.training.loop import Trained, Trainer, TrainingPlan
from training_parts import Shapes, TinyNetwork, gradient, observe

SPEC = SpecialistSpec(("block", "plate"), (4, 8), (1.0, 1.0, 1.0), (12, 12, 12))
QUIET = Augmentation(rotation=0.05, elastic=0, noise=0.05)
TEACHERS = [MeanTeacher, UncertaintyAwareMeanTeacher, AmbiguityMeanTeacher]


def test_ramps() -> None:
    assert sigmoid_ramp(0, 10) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(5, 10) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(99, 10) == sigmoid_ramp(0, 0) == 1.0
    assert [linear_ramp(n, 4) for n in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert poly_decay(0, 10) == 1
    assert poly_decay(10, 10) == 0
    assert poly_decay(5, 10) == pytest.approx(0.5**0.9)


def test_teacher_follows_parameters_and_buffers() -> None:
    student = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    teacher = teacher_of(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    of_teacher, of_student = teacher.state_dict(), student.state_dict()
    of_teacher["0.weight"].fill_(1.0)
    of_student["0.weight"].fill_(3.0)
    of_teacher["1.running_mean"].fill_(0.0)
    of_student["1.running_mean"].fill_(10.0)
    of_student["1.num_batches_tracked"].fill_(7)
    update_teacher(teacher, student, 0.75)
    after = teacher.state_dict()
    assert float(after["0.weight"]) == pytest.approx(1.5)
    assert float(after["1.running_mean"]) == pytest.approx(2.5)
    assert int(after["1.num_batches_tracked"]) == 7


def test_ema_rate_rises_to_its_limit() -> None:
    assert ema_rate(0) == 0.0
    assert ema_rate(1) == 0.5
    assert ema_rate(9) == pytest.approx(0.9)
    assert ema_rate(10_000) == 0.99


def test_input_noise_is_clipped_and_repeatable() -> None:
    images = torch.zeros(1, 1, 20, 20, 20)
    noise = input_noise(images, torch.Generator().manual_seed(1))
    assert float(noise.abs().max()) == pytest.approx(0.2)
    assert 0.08 < float(noise.std()) < 0.1
    assert torch.equal(noise, input_noise(images, torch.Generator().manual_seed(1)))


# --- mean teacher -----------------------------------------------------------------------------------------------------


def test_mean_teacher_pulls_at_the_student_on_pseudo_labelled_items_only() -> None:
    torch.manual_seed(0)
    student = TinyNetwork()
    regulariser = MeanTeacher(weight=0.1, every=1)
    regulariser.start(student, 2, 10, torch.Generator().manual_seed(0))
    with torch.no_grad():
        student.head.weight.add_(torch.randn_like(student.head.weight))
    seen = observe(student, torch.randn(2, 1, 4, 4, 4), [True, False])
    loss = regulariser.loss(seen)
    loss.backward()
    assert float(loss.detach()) > 0
    assert float(gradient(seen)[0].abs().max()) == 0
    assert float(gradient(seen)[1].abs().max()) > 0
    assert regulariser.members(student) == (regulariser.teacher, student)

    before = regulariser.teacher.state_dict()["head.weight"].clone()
    regulariser.after_step(student, 1)
    torch.testing.assert_close(
        regulariser.teacher.state_dict()["head.weight"], (before + student.state_dict()["head.weight"]) / 2
    )


@pytest.mark.parametrize("kind", TEACHERS)
def test_teachers_must_be_started(kind: type[TeacherRegulariser]) -> None:
    with pytest.raises(RuntimeError, match="start"):
        _ = kind().teacher


# --- where the teacher is sure, and where it is not -------------------------------------------------------------------


def half_known() -> tuple[TinyNetwork, torch.Tensor]:
    """A network that is sure of bright voxels only, and two scans, bright in their first half and grey in the other."""
    network = TinyNetwork()
    with torch.no_grad():
        network.body.weight.fill_(1.0)
        network.body.bias.zero_()  # type: ignore[union-attr]
        network.head.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1).expand_as(network.head.weight) / 6)
        network.head.bias.zero_()  # type: ignore[union-attr]
    images = torch.zeros(2, 1, 4, 4, 4)
    images[:, :, :2] = 6.0
    return network, images


@pytest.mark.parametrize(
    ("kind", "acts_where_sure"), [(UncertaintyAwareMeanTeacher, True), (AmbiguityMeanTeacher, False)]
)
@pytest.mark.parametrize("step", [0, 5])
def test_masks_choose_the_voxels(kind: type[TeacherRegulariser], acts_where_sure: bool, step: int) -> None:
    student, images = half_known()
    regulariser = kind(weight=1.0)
    regulariser.every = 1
    regulariser.start(student, 2, 10, torch.Generator().manual_seed(0))
    with torch.no_grad():
        student.head.weight.mul_(0.2)
        student.head.bias.add_(torch.tensor([0.0, 0.5]))  # type: ignore[union-attr]
    seen = observe(student, images, [True, False], step=step)
    loss = regulariser.loss(seen)
    loss.backward()
    assert float(loss.detach()) > 0
    pulled = gradient(seen).abs().amax(dim=1)
    assert float(pulled[0].max()) == 0
    sure, unsure = pulled[1, :2], pulled[1, 2:]
    acted, left = (sure, unsure) if acts_where_sure else (unsure, sure)
    assert float(acted.min()) > 0
    assert float(left.max()) == 0


def test_a_teacher_that_is_asked_now_and_then_pulls_as_much_on_average() -> None:
    student, images = half_known()
    losses = {}
    for every in (1, 2):
        regulariser = MeanTeacher(weight=1.0, every=every)
        regulariser.start(student, 2, 10, torch.Generator())
        regulariser.teacher.load_state_dict({k: v + 1 for k, v in student.state_dict().items()})
        regulariser.taught = lambda images, r=regulariser: r.teacher(images).softmax(1).detach()  # type: ignore[method-assign, misc]
        losses[every] = float(regulariser.loss(observe(student, images, [True, False], step=10)).detach())
        skipped = regulariser.loss(observe(student, images, [True, False], step=11))
        assert (float(skipped.detach()) == 0) == (every == 2)
    assert losses[2] == pytest.approx(2 * losses[1], rel=1e-5)


def test_the_uncertainty_aware_teacher_is_asked_several_times() -> None:
    student, images = half_known()
    regulariser = UncertaintyAwareMeanTeacher(weight=1.0, passes=3)
    regulariser.every = 1
    regulariser.start(student, 2, 10, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        student.head.bias.add_(torch.tensor([0.0, 0.5]))  # type: ignore[union-attr]
    asked = [regulariser.teacher(images + input_noise(images, generator)).softmax(1) for _ in range(3)]
    sure = (torch.arange(4) < 2).view(1, 1, 4, 1, 1).expand(2, 1, 4, 4, 4)
    seen = observe(student, images, [False, False], step=5)
    difference = (seen.logits.softmax(1) - torch.stack(asked).mean(0)).square().mean(1, keepdim=True)
    expected = sigmoid_ramp(5, 10) * float(difference[sure].mean().detach())
    assert float(regulariser.loss(seen).detach()) == pytest.approx(expected, rel=1e-4)


# --- adversarial ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4, 4), (17, 5, 1), (8, 16, 12)])
def test_the_discriminator_has_a_say_once_it_has_seen_both_kinds(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    student = TinyNetwork(classes=3)
    regulariser = DeepAdversarial(weight=1.0)
    regulariser.start(student, 3, 10, torch.Generator())
    for human in ([False], [False, False], [True]):  # never both in one step
        seen = observe(student, torch.randn(len(human), 1, *size), human)
        assert float(regulariser.loss(seen).detach()) == 0
        regulariser.after_step(student, 0)
    assert all(p.grad is None for p in student.parameters())
    seen = observe(student, torch.randn(2, 1, *size), [True, False])
    loss = regulariser.loss(seen)
    loss.backward()
    assert float(loss.detach()) > 0
    assert float(gradient(seen)[0].abs().max()) == 0
    assert float(gradient(seen)[1].abs().max()) > 0
    assert not regulariser.parameters()


def test_the_discriminator_learns_and_pulls_the_student_towards_human_labels() -> None:
    torch.manual_seed(0)
    student, images = half_known()
    images[1] = 0  # the student is unsure everywhere in the scan without a label
    regulariser = DeepAdversarial(weight=1.0, rate=1e-2)
    regulariser.start(student, 2, 10, torch.Generator())
    values = []
    for step in range(20):
        values.append(float(regulariser.loss(observe(student, images, [True, False])).detach()))
        regulariser.after_step(student, step)
    assert values[-1] > 2 * values[1]  # it tells them apart ...
    seen = observe(student, images, [True, False])
    regulariser.loss(seen).backward()
    assert float(gradient(seen)[1].abs().max()) > 0  # ... and the student feels it


# --- dual task --------------------------------------------------------------------------------------------------------


def test_dual_task_learns_distances_from_human_labels_and_agreement_from_all() -> None:
    torch.manual_seed(0)
    student = TinyNetwork(classes=3)
    sample = Shapes().sample("h")
    targets = torch.stack([sample.target.float()] * 2)
    images = torch.stack([sample.image.float()] * 2)
    only_distances = DualTask(weight=0.0)
    only_distances.start(student, 3, 10, torch.Generator())
    assert len(only_distances.parameters()) == 2
    seen = observe(student, images, [True, False], targets=targets)
    seen.features.retain_grad()
    only_distances.loss(seen).backward()
    assert float(gradient(seen).abs().max()) == 0
    assert seen.features.grad is not None
    assert float(seen.features.grad[0].abs().max()) > 0
    assert float(seen.features.grad[1].abs().max()) == 0

    agreement = DualTask(distance_weight=0.0, sharpness=10.0)
    agreement.start(student, 3, 10, torch.Generator())
    seen = observe(student, images, [True, False], targets=targets)
    agreement.loss(seen).backward()
    assert (gradient(seen).abs().amax(dim=(1, 2, 3, 4)) > 0).all()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in agreement.parameters())


@pytest.mark.parametrize("make", [lambda: PerturbedTeacher(contrast=0.0), DualTask])
def test_windows_one_after_the_other_add_up_to_the_loss_of_all(make: Callable[[], Regulariser]) -> None:
    torch.manual_seed(0)
    student = TinyNetwork(classes=3)
    images = torch.randn(2, 1, 12, 12, 12)
    targets = torch.stack([Shapes().sample("h").target.float()] * 2)[..., :12, :12, :12]
    regulariser = make()
    regulariser.start(student, 3, 10, torch.Generator())
    if isinstance(regulariser, TeacherRegulariser):
        with torch.no_grad():
            for weights in regulariser.teacher.parameters():
                weights.add_(0.3 * torch.randn(weights.shape))
    whole = float(regulariser.loss(observe(student, images, [True, False], targets=targets)).detach())
    pieces = [
        replace(observe(student, images[n : n + 1], [n == 0], targets=targets[n : n + 1]), share=0.5) for n in (0, 1)
    ]
    assert whole > 0
    assert sum(float(regulariser.loss(seen).detach()) for seen in pieces) == pytest.approx(whole, rel=0.02)


def test_dual_task_with_structures_that_are_not_there() -> None:
    student = TinyNetwork(classes=3)
    regulariser = DualTask()
    regulariser.start(student, 3, 10, torch.Generator())
    targets = torch.zeros(1, 3, 4, 4, 4)
    targets[:, 1] = 1
    loss = regulariser.loss(observe(student, torch.randn(1, 1, 4, 4, 4), [True], targets=targets))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


# --- all of them ------------------------------------------------------------------------------------------------------


def trained(name: str, source: Shapes, *, steps: int, batch: int = 2) -> tuple[Trained, list[float]]:
    losses: list[float] = []

    def listen(_: int, metrics: dict[str, float]) -> None:
        assert math.isfinite(metrics["loss"])
        losses.append(metrics["loss"] - metrics["regulariser"])

    plan = TrainingPlan(epochs=1, iterations=steps, batch=batch, augmentation=QUIET, rate=1e-2)
    regulariser = build_regulariser(name, steps)
    return Trainer(SPEC, source, regulariser, plan).train(3, listen), losses


def weights(network: SpecialistNetwork) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REGULARISERS))
def test_training_learns_and_is_repeatable(name: str) -> None:
    result, losses = trained(name, Shapes(), steps=16)
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])
    assert all(torch.isfinite(weights(member)).all() for member in result.members)
    first, again = trained(name, Shapes(), steps=4)[0], trained(name, Shapes(), steps=4)[0]
    for one, other in zip(first.members, again.members, strict=True):
        assert torch.equal(weights(one), weights(other))
    assert build_regulariser(name, 10).name == name


@pytest.mark.parametrize("name", list(REGULARISERS))
@pytest.mark.parametrize("source", [Shapes(pseudo=()), Shapes(human=())], ids=["all outlined", "none outlined"])
def test_training_with_one_kind_of_scans(name: str, source: Shapes) -> None:
    result, _ = trained(name, source, steps=3, batch=1)
    assert all(torch.isfinite(weights(member)).all() for member in result.members)


@pytest.mark.parametrize("name", [name for name in REGULARISERS if name != "dtc"])
def test_nothing_is_added_where_all_scans_are_outlined(name: str) -> None:
    student = TinyNetwork()
    regulariser = build_regulariser(name, 10)
    regulariser.start(student, 2, 10, torch.Generator())
    for step in range(3):
        seen = observe(student, torch.randn(2, 1, 4, 4, 4), [True, True])
        assert float(regulariser.loss(seen).detach()) == 0
        regulariser.after_step(student, step)


@pytest.mark.parametrize("kind", [Supervised, DeepAdversarial, DualTask])
def test_without_a_teacher_the_student_predicts(kind: type[Supervised]) -> None:
    student = TinyNetwork()
    regulariser = kind()
    regulariser.start(student, 2, 10, torch.Generator())
    assert list(regulariser.members(student)) == [student]


def test_distances_are_learned_only_where_the_whole_window_is_annotated() -> None:
    torch.manual_seed(0)
    student = TinyNetwork()
    regulariser = DualTask(weight=0.0)
    regulariser.start(student, 2, 10, torch.Generator())
    images, targets = torch.randn(1, 1, 8, 8, 8), torch.zeros(1, 2, 8, 8, 8)
    targets[:, 0], targets[:, 1, 2:5, 2:5, 2:5] = 1, 1
    targets[:, 0, 2:5, 2:5, 2:5] = 0
    planes = torch.zeros(1, 1, 8, 8, 8)
    planes[:, :, 3] = 1
    losses = [
        float(regulariser.loss(observe(student, images, [True], targets=targets, weights=weights)).detach())
        for weights in (torch.ones_like(planes), planes, torch.zeros_like(planes))
    ]
    assert losses[0] > 0
    assert losses[1:] == [0, 0]
