"""Windows, batches and the training loop."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lib.core.errors import UserError
from lib.specialists import SpecialistSpec
from lib.specialists.augment import Augmentation
from lib.specialists.networks import SpecialistNetwork
from lib.specialists.regularisers import MeanTeacher, Observation
from lib.training import metrics_queue
from lib.training.agreement import agreement, holds_structure, overlap_counts
from lib.training.assistance import AssistedSource, Predict
from lib.training.loop import Trainer, TrainingPlan
from lib.training.objectives import LabelObjective
from lib.training.sample import Sample
from lib.training.sampling import TwoStreams, WindowOptions
from training_parts import TinyNetwork, gradient, observe

SPEC = SpecialistSpec(("cube",), (4, 8), (1.0, 1.0, 1.0), (12, 12, 12))


class Cubes:
    """One outlined and two other scans of a bright cube."""

    def __init__(self, value: float = 2.0) -> None:
        self.value = value

    def human(self) -> Sequence[str]:
        return ["h"]

    def pseudo(self) -> Sequence[str]:
        return ["p", "q"]

    def sample(self, name: str) -> Sample:
        inside = torch.zeros(1, 16, 16, 16)
        inside[:, 4:10, 5:11, 6:12] = 1
        return Sample((inside * self.value).half(), torch.cat([1 - inside, inside]).half(), torch.ones(1, 16, 16, 16))


class Outlined(Cubes):
    """The same without the other scans."""

    def pseudo(self) -> Sequence[str]:
        return []


def streams(batch: int, share: float, source: Cubes | None = None) -> TwoStreams:
    options = WindowOptions(batch, share, Augmentation())
    return TwoStreams(source or Cubes(), (12, 12, 12), options, torch.Generator().manual_seed(0))


def test_a_window_without_changes_is_a_crop() -> None:
    image = torch.arange(1000.0).reshape(1, 10, 10, 10)
    still = Augmentation(rotation=0, scale=0, elastic=0, contrast=0, brightness=0, noise=0, bias=0)
    window, maps = still.window(image, -image, (5.5, 4.5, 3.5), (4, 4, 4), torch.Generator())
    torch.testing.assert_close(window, image[:, 4:8, 3:7, 2:6], atol=1e-2, rtol=0)
    torch.testing.assert_close(maps, -window)


def test_image_and_label_are_deformed_alike() -> None:
    sample = Cubes().sample("p")
    quiet = Augmentation(contrast=0, brightness=0, noise=0, bias=0, undeformed=0)
    image, maps = quiet.window(
        sample.image.float(), sample.target.float(), (7.5, 7.5, 7.5), (12, 12, 12), torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(image, 2 * maps[1:], atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.sum(0), torch.ones(12, 12, 12), atol=1e-4, rtol=0)


@pytest.mark.parametrize("centre", [(20.0, 22.5, 25.0), (2.0, 45.0, 24.0), (-30.0, 20.0, 90.0)])
def test_a_deformed_window_of_a_large_scan_is_that_of_the_whole_scan(centre: tuple[float, float, float]) -> None:
    """Of a scan with many voxels and structures, only what a window shows is converted and resampled."""
    image = torch.randn(1, 48, 48, 48, generator=torch.Generator().manual_seed(1)).half()
    quiet = Augmentation(contrast=0, brightness=0, noise=0, bias=0, undeformed=0)
    found, maps = quiet.window(image, -image, centre, (12, 12, 12), torch.Generator().manual_seed(3))
    places = quiet._coordinates(centre, (12, 12, 12), torch.Generator().manual_seed(3), image.device)
    grid = ((places * 2 + 1) / 48 - 1).flip(0).permute(1, 2, 3, 0)[None]
    whole = functional.grid_sample(image.float()[None], grid, padding_mode="border", align_corners=False)[0]
    torch.testing.assert_close(found, whole, atol=1e-3, rtol=0)
    torch.testing.assert_close(maps, -whole, atol=1e-3, rtol=0)


def test_half_of_the_windows_are_as_sharp_as_the_scan() -> None:
    """A network that sees resampled scans only does worse on those that nobody has resampled."""
    image = torch.randn(1, 20, 20, 20, generator=torch.Generator().manual_seed(1))
    quiet, generator = Augmentation(contrast=0, brightness=0, noise=0, bias=0), torch.Generator().manual_seed(0)
    windows = [quiet.window(image, image, (9.7, 9.2, 8.4), (8, 8, 8), generator) for _ in range(40)]
    sharp = [torch.equal(window, image[:, 6:14, 6:14, 5:13]) for window, _ in windows]
    assert sharp == [torch.equal(maps, image[:, 6:14, 6:14, 5:13]) for _, maps in windows]
    assert 12 <= sum(sharp) <= 28


def test_an_undeformed_window_beyond_the_scan_repeats_its_border() -> None:
    image = torch.arange(6.0).reshape(1, 6, 1, 1).expand(1, 6, 6, 6)
    still = Augmentation(contrast=0, brightness=0, noise=0, bias=0, undeformed=1)
    window, _ = still.window(image, image, (2.5, 2.5, 2.5), (10, 6, 6), torch.Generator().manual_seed(0))
    assert window[0, :, 0, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 5, 5]


@pytest.mark.parametrize(("batch", "share"), [(2, 0.5), (4, 0.25), (2, 0.1), (3, 0.0)])
def test_human_labels_get_their_share_of_the_windows(batch: int, share: float) -> None:
    source = streams(batch, share)
    drawn = [source.draw() for _ in range(20)]
    assert drawn[0].images.shape == (batch, 1, 12, 12, 12)
    assert drawn[0].targets.shape == (batch, 2, 12, 12, 12)
    assert sum(int(d.labelled.sum()) for d in drawn) == round(20 * batch * share)


def test_without_pseudo_labels_all_is_human() -> None:
    class OnlyHuman(Cubes):
        def pseudo(self) -> Sequence[str]:
            return []

    assert bool(streams(2, 0.5, OnlyHuman()).draw().labelled.all())


def test_same_seed_same_batches() -> None:
    assert torch.equal(streams(2, 0.5).draw().images, streams(2, 0.5).draw().images)


def test_pseudo_part_is_weighted_by_ramp_and_confidence() -> None:
    torch.manual_seed(0)
    weights = torch.ones(2, 1, 4, 4, 4)
    weights[1, :, :2] = 0
    seen = observe(TinyNetwork(), torch.randn(2, 1, 4, 4, 4), [True, False], weights=weights)
    loss, parts = LabelObjective()(seen)
    metrics = {name: float(value) for name, value in parts.items()}
    loss.backward()
    assert float(gradient(seen)[1, :, :2].abs().max()) == 0
    assert float(gradient(seen)[1, :, 2:].abs().max()) > 0
    assert float(loss.detach()) == pytest.approx(metrics["human_loss"] + metrics["pseudo_loss"], rel=1e-5)
    without, _ = LabelObjective(pseudo_weight=0.0)(seen)
    assert float(without.detach()) == pytest.approx(metrics["human_loss"], rel=1e-5)
    early, _ = LabelObjective(pseudo_ramp=1.0)(replace(seen, step=4))
    assert float(early.detach()) == pytest.approx(metrics["human_loss"] + 0.5 * metrics["pseudo_loss"], rel=1e-5)


def test_agreement_is_hard_dice_of_the_structures() -> None:
    label = torch.zeros(1, 2, 1, 1, 4)
    label[0, 1, 0, 0, :2], label[0, 0, 0, 0, 2:] = 1, 1
    other = torch.zeros(1, 2, 1, 1, 4)
    other[0, 1, 0, 0, 1], other[0, 0, 0, 0, [0, 2, 3]] = 1, 1
    assert agreement(other, label) == pytest.approx(2 / 3)
    nothing = torch.zeros(1, 2, 1, 1, 4)
    nothing[:, 0] = 1
    assert agreement(nothing, nothing) == 1.0


def test_a_batch_is_split_without_a_change_of_its_windows() -> None:
    batch = streams(3, 0.5).draw()
    parts = batch.split(2)
    assert [len(part.images) for part in parts] == [2, 1]
    assert batch.split(3) == [batch]
    for name, value in vars(batch).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), value)
    assert all(part.images.is_contiguous(memory_format=torch.channels_last_3d) for part in parts)


@pytest.mark.parametrize(("at_once", "changes"), [(1, 6), (2, 3)])
def test_on_a_cpu_the_windows_of_a_step_are_learned_one_after_the_other(at_once: int, changes: int) -> None:
    class Counts(MeanTeacher):
        calls = after = 0

        def loss(self, seen: Observation) -> torch.Tensor:
            self.calls += 1
            assert len(seen.images) == at_once
            return super().loss(seen)

        def after_step(self, student: SpecialistNetwork, step: int) -> None:
            self.after += 1
            super().after_step(student, step)

    counts, told = Counts(), []
    plan = TrainingPlan(epochs=1, iterations=3, at_once=at_once)
    Trainer(SPEC, Cubes(), counts, plan).train(0, lambda step, metrics: told.append((step, sorted(metrics))))
    assert (counts.calls, counts.after) == (changes, 3)
    assert [step for step, _ in told] == [1, 2, 3]
    assert all({"agreement", "human_loss", "loss", "pseudo_loss", "regulariser"} == set(names) for _, names in told)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "share"), [(Cubes(), 0.5), (Outlined(), 1.0)])
def test_a_term_over_all_scans_counts_by_the_share_of_the_windows_that_are_seen(source: Cubes, share: float) -> None:
    shares: list[float] = []

    class Watching(MeanTeacher):
        def loss(self, seen: Observation) -> Tensor:
            shares.append(seen.share)
            return super().loss(seen)

    plan = TrainingPlan(epochs=1, iterations=2, batch=2)
    Trainer(SPEC, source, Watching(), plan).train(0, lambda step, metrics: None)
    assert shares == [share] * 4


def test_training_learns_a_cube_and_is_repeatable() -> None:
    plan = TrainingPlan(epochs=3, iterations=15, augmentation=Augmentation(elastic=0, noise=0.05), rate=1e-2)

    def run() -> tuple[float, torch.Tensor, list[int]]:
        steps: list[int] = []
        trained = Trainer(SPEC, Cubes(), MeanTeacher(most=0.8), plan).train(5, lambda n, _: steps.append(n))
        return trained.agreement, next(iter(trained.members[0].parameters())).clone(), steps

    value, weights, steps = run()
    assert value > 0.6
    assert steps == list(range(1, 46))
    assert torch.equal(weights, run()[1])


@pytest.mark.slow
def test_a_training_leaves_nothing_in_memory_but_its_networks() -> None:
    plan = TrainingPlan(epochs=1, iterations=2)
    gc.collect()
    gc.disable()  # on a GPU nothing calls it for long, and the next round would find the memory full
    try:
        source = Cubes()
        kept = weakref.ref(source)
        Trainer(SPEC, source, MeanTeacher(), plan).train(0, lambda *_: None)
        del source
        assert kept() is None
    finally:
        gc.enable()


def test_a_loss_that_is_no_number_stops_with_a_text() -> None:
    with pytest.raises(UserError, match="no longer a number"):
        Trainer(SPEC, Cubes(math.inf), MeanTeacher(), TrainingPlan(epochs=1, iterations=2)).train(0, lambda *_: None)


class Bystander:
    """An assistant whose map is 1 in every scan, and whose loss pulls the logits to 0."""

    channels = 1

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.seen: list[float] = []

    def start(self, predict: Predict, steps: int, generator: torch.Generator) -> None:
        self.predict = predict

    def maps(self, name: str, sample: Sample, step: int) -> torch.Tensor:
        self.asked.append((name, step))
        probabilities = self.predict(sample.image)
        assert probabilities.shape == sample.target.shape
        return torch.ones(1, *sample.image.shape[1:])

    def label(self, sample: Sample, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return sample.target, sample.weight

    def loss(self, seen: Observation) -> tuple[torch.Tensor, dict[str, float]]:
        self.seen.append(float(seen.extra.min()))
        return seen.logits.square().mean(), {"bystander": 1.0}


def test_an_assistant_may_say_what_is_learned_as_the_label_of_a_scan() -> None:
    class Corrector(Bystander):
        def maps(self, name: str, sample: Sample, step: int) -> torch.Tensor:
            return torch.full((1, *sample.image.shape[1:]), float(step))

        def label(self, sample: Sample, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return sample.target.flip(0), maps / 10

    source = AssistedSource(Cubes(), Corrector())
    source.step = 5
    found, given = source.sample("p"), Cubes().sample("p")
    assert found.target.equal(given.target.flip(0))
    assert (found.weight == 0.5).all()
    assert found.image.equal(given.image)
    assert found.extra is not None
    assert (found.extra == 5).all()


def test_what_is_told_in_bursts_is_what_is_told_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's training fetches its metrics a few steps at a time: nothing is lost, late or mixed up among epochs."""
    plan = TrainingPlan(epochs=2, iterations=7)
    told: list[list[tuple[int, dict[str, float]]]] = []
    agreements = []
    for together in (1, 3):
        monkeypatch.setattr(metrics_queue, "_STEPS", {"cpu": together})
        log: list[tuple[int, dict[str, float]]] = []
        trained = Trainer(SPEC, Cubes(), MeanTeacher(), plan).train(1, lambda *step, log=log: log.append(step))
        told.append(log)
        agreements.append(trained.agreement)
    assert [step for step, _ in told[1]] == list(range(1, 15))
    assert told[0] == told[1]
    last = [metrics["agreement"] for step, metrics in told[1] if step > 7]
    assert agreements == [pytest.approx(sum(last) / 7)] * 2


def test_in_a_burst_the_step_that_went_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_queue, "_STEPS", {"cpu": 10})
    told: list[int] = []

    class Breaks(MeanTeacher):
        def loss(self, seen: Observation) -> torch.Tensor:
            return super().loss(seen) + (math.nan if seen.step == 3 else 0.0)

    trainer = Trainer(SPEC, Cubes(), Breaks(), TrainingPlan(epochs=1, iterations=20))
    with pytest.raises(UserError, match="step 4 of 20"):
        trainer.train(1, lambda n, _: told.append(n))
    assert told == [1, 2, 3]


def test_an_assistant_is_asked_about_every_scan_that_is_drawn() -> None:
    bystander = Bystander()
    logged: list[dict[str, float]] = []
    trainer = Trainer(SPEC, Cubes(), MeanTeacher(), TrainingPlan(epochs=1, iterations=3), assistant=bystander)
    trainer.train(0, lambda _, metrics: logged.append(metrics))
    assert sorted(step for _, step in bystander.asked) == [0, 0, 1, 1, 2, 2]
    assert {name for name, _ in bystander.asked} == {"h", "p", "q"}
    assert bystander.seen == pytest.approx([1.0] * 6)  # two windows a step, one after the other
    assert all(metrics["bystander"] == 1.0 for metrics in logged)


def test_a_step_without_any_annotated_structure_says_nothing_about_agreement() -> None:
    targets = torch.zeros(1, 2, 4, 4, 4)
    targets[:, 1, :2], targets[:, 0, 2:] = 1, 1
    weights = torch.zeros(1, 1, 4, 4, 4)
    assert not holds_structure(targets, weights)
    weights[:, :, 3] = 1  # annotated, but background
    assert not holds_structure(targets, weights)
    weights[:, :, 0] = 1
    assert holds_structure(targets, weights)


def test_what_is_found_of_each_structure() -> None:
    target = torch.zeros(1, 3, 2, 2, 2)
    target[0, 1, 0] = 1.0
    target[0, 2, 1, 0] = 1.0
    target[0, 0, 1, 1] = 1.0
    own = target.clone()
    own[0, 1, 0, 0] = 0.0
    own[0, 2, 0, 0] = 1.0
    weights = torch.ones(1, 1, 2, 2, 2)
    assert overlap_counts(own, target, weights).tolist() == [[2, 4, 2], [4, 2, 2]]
    weights[:, :, 1] = 0.0
    assert overlap_counts(own, target, weights)[:, 1:].tolist() == [[4, 2], [0, 0]]
