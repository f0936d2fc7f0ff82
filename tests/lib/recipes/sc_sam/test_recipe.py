"""SC-SAM: its losses, and the recipe from end to end on a tiny study, its resumption, and SAM's weights."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.formats.channels import set_channels
from lib.formats.volumes import read_volume
from lib.generalists.sam2d.adapter import SliceGeneralist
from lib.recipes import PRESETS, Progress, RecipeOptions, RecipeSettings, RunRequest, RunResult, resolve, run_recipe
from lib.recipes.engine.options import Preset
from lib.recipes.sc_sam import recipe as recipe_module
from lib.recipes.sc_sam.cotraining import CoTraining, CoTrainingPlan, Standing, segmentation_loss
from lib.recipes.sc_sam.slices import SliceSource
from lib.specialists import load_specialist, predict
from lib.specialists.networks.sam import build as sam_module
from lib.specialists.networks.sam.build import SAM_KINDS, SamKind, SamSpecialist, build_sam
from lib.training.sample import Sample
from lib.training.sampling import Batch
from recipe_runs import SCHEMA, CopyPropagator, KilledError, Listener, cases_of, run
from sam_parts import KINDS, random_network, tiny_model, tiny_spec
from tiny_study import TINY_LABELS, add_second_channel, make_tiny_study

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = RecipeOptions(recipe="sc_sam", seed=3)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(2, 1, 2, 1, (4, 8), 5_000, 14_000))
    kinds = {name: SamKind(tiny_model(name), SAM_KINDS[name].pretrained) for name in KINDS}
    monkeypatch.setattr(sam_module, "SAM_KINDS", kinds)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_tiny_study(tmp_path / "study", scans=3)


def start(study: Path, folder: Path, listener: Listener | None = None, **changes: Any) -> RunResult:
    return run(cases_of(study), folder, listener, replace(OPTIONS, **changes))


def pair_of(name: str = "sam") -> SamSpecialist:
    torch.manual_seed(0)
    return build_sam(tiny_spec(name))


def batch_of(unlabelled: int = 2, seed: int = 0) -> Batch:
    """Two labelled slices with a square on them, and others."""
    count = 2 + unlabelled
    images = torch.randn(count, 1, 32, 24, 1, generator=torch.Generator().manual_seed(seed))
    targets = torch.zeros(count, 3, 32, 24, 1)
    targets[:, 0] = 1
    images[:2, :, 8:20, 6:16] += 3
    targets[:2, 0, 8:20, 6:16] = 0
    targets[:2, 1, 8:20, 6:16] = 1
    human = torch.arange(count) < 2
    weights = human.float().view(-1, 1, 1, 1, 1).expand(-1, -1, 32, 24, 1)
    return Batch(images, targets, weights, human, torch.zeros(count, 0, 32, 24, 1))


# --- losses -----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_of_cross_entropy_and_dice_over_all_slices() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.4, 0.6]])).view(2, 2, 1, 1, 1)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1, 1)
    weights = torch.ones(2, 1, 1, 1, 1)
    entropy = -(math.log(0.8) + math.log(0.6)) / 2
    first = 1 - 2 * 0.8 / (0.8**2 + 0.4**2 + 1)
    second = 1 - 2 * 0.6 / (0.2**2 + 0.6**2 + 1)
    expected = 0.5 * (entropy + (first + second) / 2)
    assert float(segmentation_loss(logits, targets, weights)) == pytest.approx(expected, rel=1e-4)
    weights[1] = 0  # nobody annotated the second slice
    alone = 0.5 * (-math.log(0.8) + (1 - 2 * 0.8 / (0.8**2 + 1) + 1) / 2)
    assert float(segmentation_loss(logits, targets, weights)) == pytest.approx(alone, rel=1e-3)


def test_the_weight_rises_in_one_direction_only() -> None:
    plan = CoTrainingPlan(steps=100, ramp=0.5)
    assert [plan.to_unet(t) for t in (0, 10, 50, 99)] == [1.0] * 4
    assert plan.to_sam(0) == pytest.approx(math.exp(-5))
    assert plan.to_sam(25) == pytest.approx(math.exp(-5 * 0.25))
    assert plan.to_sam(50) == plan.to_sam(99) == 1.0
    assert CoTrainingPlan(steps=100, ramp=0.0).to_sam(0) == 1.0
    assert CoTrainingPlan(steps=100, ramp=0.5, ramp_to_unet=True).to_unet(0) == pytest.approx(math.exp(-5))


class Recorder:
    """Stands for an optimiser and a mixed precision: keeps the losses, and which network each reaches."""

    def __init__(self, pair: SamSpecialist) -> None:
        self.pair = pair
        self.losses: list[float] = []
        self.reached: list[tuple[bool, bool]] = []

    def step(self, loss: Tensor, optimiser: torch.optim.Optimizer, clip: float) -> None:
        for parameter in self.pair.parameters():
            parameter.grad = None
        loss.backward()
        parts = (self.pair.unet, self.pair.sam)
        unet, sam = (any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()) for part in parts)
        self.reached.append((unet, sam))
        self.losses.append(float(loss.detach()))

    def __call__(self) -> torch.autograd.grad_mode.enable_grad:
        return torch.enable_grad()


def test_each_loss_reaches_its_own_network_and_counts_what_its_weight_says() -> None:
    for step, ramp in ((0, 1.0), (9, 1.0), (0, 0.0)):
        pair = pair_of()
        training = CoTraining(pair, CoTrainingPlan(steps=10, ramp=ramp))
        recorder = Recorder(pair)
        training._precision = recorder  # type: ignore[assignment]
        training.done = step
        found = training.step(batch_of(), torch.Generator().manual_seed(0))
        assert recorder.reached == [(True, False), (False, True)]
        unet, sam = recorder.losses
        assert unet == pytest.approx(found["unet_human"] + found["unet_from_sam"])
        assert sam == pytest.approx(found["sam_human"] + training.plan.to_sam(step) * found["sam_from_unet"])


def test_a_network_that_knows_less_teaches_less_and_one_far_behind_nothing() -> None:
    standing = Standing()
    assert (standing.to_sam(), standing.to_unet()) == (0.0, 0.0)  # nobody has shown anything yet
    for _ in range(100):
        standing.see({"agreement": 0.7, "sam_agreement": 0.8})
    standing.see({"loss": 1.0})  # a step without any structure says nothing
    assert standing.to_unet() == pytest.approx(0.6, abs=1e-3)
    assert standing.to_sam() == pytest.approx(0.4 * 0.5, abs=1e-3)
    for _ in range(100):
        standing.see({"agreement": 0.6, "sam_agreement": 0.8})
    assert standing.to_sam() == pytest.approx(0.0, abs=1e-3)
    for _ in range(100):
        standing.see({"agreement": 0.4, "sam_agreement": 0.1})
    assert standing.to_sam() == 0.0  # ahead of the other, but no good


def test_what_has_not_been_earned_is_not_learned() -> None:
    pair = pair_of()
    training = CoTraining(pair, CoTrainingPlan(steps=10, ramp=0.0, earned=True))
    recorder = Recorder(pair)
    training._precision = recorder  # type: ignore[assignment]
    training.standing.unet, training.standing.sam = 0.2, 0.9
    found = training.step(batch_of(), torch.Generator().manual_seed(0))
    assert "sam_from_unet" not in found  # nor is SAM shown slices from which it learns nothing
    assert recorder.losses[1] == pytest.approx(found["sam_human"])
    assert recorder.losses[0] == pytest.approx(found["unet_human"] + 0.8 * found["unet_from_sam"])
    training.standing.unet = training.standing.sam = 0.0
    found = training.step(batch_of(), torch.Generator().manual_seed(0))
    assert "unet_from_sam" not in found


def test_what_was_earned_is_kept_when_a_training_is_interrupted() -> None:
    training, kept = (CoTraining(pair_of(), CoTrainingPlan(steps=10, earned=True)) for _ in range(2))
    training.standing.sam = 0.4
    kept.restore(training.state())
    assert kept.standing.sam == 0.4
    kept.restore({key: value for key, value in training.state().items() if key != "standing"})  # an older version's
    assert kept.standing.sam == 0.0


def test_without_other_scans_only_labels_are_learned() -> None:
    training = CoTraining(pair_of(), CoTrainingPlan(steps=2))
    found = training.step(batch_of(unlabelled=0), torch.Generator().manual_seed(0))
    assert "unet_from_sam" not in found
    assert found["loss"] == pytest.approx(found["unet_human"] + found["sam_human"])


def test_pseudo_labels_move_with_the_stronger_change() -> None:
    pair = pair_of()
    training = CoTraining(pair, CoTrainingPlan(steps=2))
    weak = torch.zeros(2, 1, 32, 24, 1)
    weak[:, :, 3:13, 2:11] = 3.0

    class Bright(torch.nn.Module):
        """Class 1 is what is bright."""

        def forward(self, image: Tensor) -> Tensor:
            return torch.cat([1.0 - image, image - 1.0, torch.full_like(image, -9.0)], dim=1)

    pair.unet = Bright()  # type: ignore[assignment]
    changed, from_unet, from_sam = training.teach(weak, torch.Generator().manual_seed(1))
    assert changed.shape == weak.shape
    assert not torch.allclose(changed, weak, atol=0.1)
    for target in (from_unet, from_sam):
        assert torch.allclose(target.sum(dim=1), torch.ones(2, 32, 24, 1), atol=1e-5)
    inside, outside = (from_unet[:, c : c + 1] > 0.5 for c in (1, 0))
    assert float(changed[inside].mean()) > float(changed[outside].mean()) + 2
    assert not torch.equal(inside, weak > 1)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    batch = batch_of(unlabelled=0)
    batch.images[0] = torch.nan
    with pytest.raises(UserError, match="no longer a number"):
        CoTraining(pair_of(), CoTrainingPlan(steps=5)).step(batch, torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_training_lowers_both_losses_and_goes_on_where_it_was_left() -> None:
    def trained(stop: bool) -> tuple[list[dict[str, float]], CoTraining]:
        torch.manual_seed(0)
        training = CoTraining(pair_of(), CoTrainingPlan(steps=24, sam_rate=5e-3, unet_rate=2e-2))
        found = []
        for n in range(24):
            if stop and n == 6:
                state = training.state()
                training = CoTraining(pair_of(), training.plan)
                training.restore(state)
            torch.manual_seed(n)
            found.append(training.step(batch_of(seed=n), torch.Generator().manual_seed(n)))
        return found, training

    found, whole = trained(stop=False)
    for name in ("unet_human", "sam_human"):
        assert found[-1][name] < 0.75 * found[0][name]
    again, continued = trained(stop=True)
    assert again == found
    for key, value in whole.pair.state_dict().items():
        assert torch.equal(continued.pair.state_dict()[key], value), key


# --- slices -----------------------------------------------------------------------------------------------------------


class TwoScans:
    """A labelled scan with a large and a small structure, sparsely annotated, and one without a label."""

    def __init__(self) -> None:
        self.target = torch.zeros(3, 8, 6, 20)
        self.target[1, 2:6, 2:4, 3:15] = 1
        self.target[2, 1, 1, 17] = 1
        self.target[0] = 1 - self.target[1:].sum(dim=0)
        self.weight = torch.ones(1, 8, 6, 20)
        self.weight[..., 6:12] = 0

    def human(self) -> list[str]:
        return ["a"]

    def unlabelled(self) -> list[str]:
        return ["b"]

    def sample(self, name: str) -> Sample:
        places = torch.arange(20.0).expand(1, 8, 6, 20)
        return Sample(places, self.target, self.weight)

    def image(self, name: str) -> Tensor:
        return -1.0 - torch.arange(20.0).expand(1, 8, 6, 20)


def test_slices_are_annotated_ones_and_rare_structures_come_often() -> None:
    scans = TwoScans()
    source = SliceSource(scans, 3, 2, torch.Generator().manual_seed(0))
    drawn = []
    for _ in range(300):
        sample = source.sample("a")
        assert sample.image.shape == (1, 8, 6, 1)
        at = int(sample.image[0, 0, 0, 0])
        drawn.append(at)
        assert torch.equal(sample.target, scans.target[..., at : at + 1])
        assert bool((sample.weight == 1).all())
    assert not set(drawn) & set(range(6, 12))
    assert 60 < drawn.count(17) < 180  # one slice of 14 holds the small structure
    other = source.sample("b")
    assert float(other.image.max()) < 0
    assert not bool(other.weight.any())
    assert other.target.shape == (3, 8, 6, 1)


# --- the recipe -------------------------------------------------------------------------------------------------------


def fingerprint(result: RunResult) -> dict[str, str]:
    return {
        name: hashlib.sha256(label.path.read_bytes()[10:]).hexdigest() for name, label in result.pseudo_labels.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("network", ["unet2d", "sam"])
def test_from_one_label_to_either_network_also_after_a_kill(
    network: str, study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    with caplog.at_level(logging.WARNING, logger="semisam.train"):
        whole = start(study, tmp_path / "whole", listener, network=network)
    assert "No pretrained SAM: the generalist is mind" in caplog.text
    assert [r.index for r in listener.rounds] == [0, 1, 2]
    assert set(whole.pseudo_labels) == {"case_2", "case_3"}
    last = listener.steps[-1]
    assert (last.epoch, last.total_epochs, last.round, last.rounds) == (2, 2, 2, 2)
    params: Any = whole.pseudo_labels["case_2"].params
    assert (params["round"], params["source"], params["recipe"]) == (2, "specialist", "sc_sam")
    assert params["templates"] == ["case_1"]
    specialist = load_specialist(whole.checkpoint)
    assert specialist.spec.network == network
    assert specialist.spec.label_names == TINY_LABELS
    assert specialist.notes["sam"] == "random weights, trained as a whole"
    scan = read_volume(study / "case_2.nii.gz")
    labels = predict(specialist, scan).labels()
    assert labels.shape == scan.shape
    assert (labels == predict(specialist, scan).labels()).all()
    kept = sorted(p.parent.name for p in whole.folder.rglob("cotraining.pt"))
    assert kept == ["1", "2"]  # of the round before as well, in case the last one's is damaged

    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.round == 2 and progress.stage == "prediction":
                raise KilledError

    with pytest.raises(KilledError):
        start(study, tmp_path / "killed", Fragile(), network=network)
    again = start(study, tmp_path / "killed", network=network)
    assert again.resumed_at == 2
    assert fingerprint(again) == fingerprint(whole)
    assert [again.folder] == list((tmp_path / "killed").glob("run-*"))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["unet2d", "sam"])
def test_both_networks_learn_from_all_channels(network: str, study: Path, tmp_path: Path) -> None:
    add_second_channel(study)
    set_channels(("T1", "T2"))
    try:
        specialist = load_specialist(start(study, tmp_path / "runs", rounds=1, network=network).checkpoint)
        scan = read_volume(study / "case_2.nii.gz")
    finally:
        set_channels(())
    assert specialist.spec.inputs == 2
    found = predict(specialist, scan).probabilities
    blind = replace(scan, further=(np.random.default_rng(0).normal(size=scan.shape).astype(np.float32),))
    assert not torch.allclose(found, predict(specialist, blind).probabilities, atol=1e-3)
    with pytest.raises(UserError, match="knows scans with 2 channels; this one has 1"):
        predict(specialist, scan.channel(0))


@pytest.mark.slow
def test_the_seed_decides(study: Path, tmp_path: Path) -> None:
    first, second, other = (
        torch.load(start(study, tmp_path / n, rounds=1, seed=s).checkpoint, weights_only=True)["members"][0]
        for n, s in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.slow
def test_a_pretrained_sam_is_where_the_training_starts(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = random_network("mobile_sam", seed=5)
    generalist = SliceGeneralist(tiny_model("mobile_sam"), state)
    with caplog.at_level(logging.INFO, logger="semisam.train"):
        result = run_recipe(
            RunRequest(
                cases_of(study),
                SCHEMA,
                replace(OPTIONS, rounds=1),
                RecipeSettings(),
                tmp_path / "runs",
            ),
            generalist=generalist,
            propagator=CopyPropagator(),
            observer=Listener(),
        )
    assert "SAM starts from the weights of mobile_sam" in caplog.text
    specialist = load_specialist(result.checkpoint)
    assert specialist.spec.network == "mobile_sam"
    assert specialist.notes["sam"] == "weights of mobile_sam, frozen image encoder with adapters"
    (member,) = specialist.members
    assert isinstance(member, SamSpecialist)
    trained, given = member.sam.network.state_dict(), state.state_dict()
    for key in ("c.weight", "bn.running_mean"):
        stem = f"image_encoder.patch_embed.seq.0.{key}"
        assert torch.equal(trained[stem], given[stem])
    # The server's own model is untouched: it was trained with a copy.
    fresh = random_network("mobile_sam", seed=5).state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in state.state_dict().items())
    assert predict(specialist, read_volume(study / "case_2.nii.gz")).labels().shape == (36, 32, 28)


@pytest.mark.slow
def test_human_labels_only(tmp_path: Path) -> None:
    study = make_tiny_study(tmp_path / "study", scans=1)
    result = start(study, tmp_path / "runs")
    assert result.rounds == 1
    assert load_specialist(result.checkpoint).spec.network == "unet2d"


@pytest.mark.slow
def test_a_damaged_state_costs_its_round_only(study: Path, tmp_path: Path) -> None:
    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            if progress.round == 2:
                raise KilledError

    with pytest.raises(KilledError):
        start(study, tmp_path / "runs", Fragile())
    (state,) = (tmp_path / "runs").rglob("cotraining.pt")
    state.write_bytes(b"")
    result = start(study, tmp_path / "runs")
    assert result.resumed_at == 1
    assert "round 1 (cotraining.pt is damaged)" in result.note


def test_slices_lie_across_thick_voxels_and_2d_images_are_their_own() -> None:
    spec = tiny_spec("sam")
    assert recipe_module.slice_axis(spec) == 2
    assert recipe_module.slice_axis(replace(spec, spacing=(1.0, 4.0, 1.0))) == 1
    assert recipe_module.slice_axis(replace(spec, spacing=(9.0, 9.0, 1.0), roi_size=(32, 32, 1))) == 2


def test_sam_answers_by_default_where_it_starts_from_published_weights() -> None:
    assert resolve(OPTIONS, ["mobile_sam"]).network == "sam"
    assert resolve(OPTIONS, ["mind"]).network == resolve(OPTIONS, ["sam_med3d"]).network == "unet2d"
    assert resolve(replace(OPTIONS, network="unet2d"), ["mobile_sam"]).network == "unet2d"
    assert resolve(replace(OPTIONS, recipe="semisam_o1"), ["mobile_sam"]).network == "unet3d"


def test_options() -> None:
    assert resolve(OPTIONS).network == "unet2d"
    assert resolve(replace(OPTIONS, network="sam")).network == "sam"
    with pytest.raises(UserError, match="sc_sam cannot use 'vnet'"):
        resolve(replace(OPTIONS, network="vnet"))
