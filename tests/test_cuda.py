"""What only a machine with a GPU can show; all is skipped on others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from lib.specialists import SpecialistSpec
from lib.specialists.augment import Augmentation
from lib.specialists.networks import build_network
from lib.specialists.regularisers import build_regulariser
from lib.training.loop import Trained, Trainer, TrainingPlan
from lib.training.sampling import Batch, TwoStreams, WindowOptions
from training_parts import Shapes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SPEC = SpecialistSpec(("block", "plate"), (8, 16, 32), (1.0, 1.0, 1.0), (16, 16, 16))


def drawn(device: str, augmentation: Augmentation) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return TwoStreams(Shapes(), (16, 16, 16), WindowOptions(4, 0.5, augmentation), generator, device).draw()


def trained(regulariser: str, metrics: list[dict[str, float]]) -> Trained:
    plan = TrainingPlan(epochs=2, iterations=15)  # no multiple of the steps whose metrics are fetched together
    learner = build_regulariser(regulariser, plan.steps)
    return Trainer(SPEC, Shapes(), learner, plan, "cuda").train(0, lambda _, found: metrics.append(found))


def test_a_window_is_cut_alike_on_the_cpu_and_on_the_gpu() -> None:
    quiet = Augmentation(noise=0.0)  # a GPU draws other noise, all else is the same
    here, there = drawn("cpu", quiet), drawn("cuda", quiet)
    assert there.images.device.type == "cuda"
    assert there.labelled.device.type == "cpu"
    torch.testing.assert_close(there.images.cpu(), here.images, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(there.targets.cpu(), here.targets, atol=1e-3, rtol=1e-3)


def test_the_same_seed_gives_the_same_noise() -> None:
    assert torch.equal(drawn("cuda", Augmentation()).images, drawn("cuda", Augmentation()).images)


@pytest.mark.parametrize("regulariser", ["mean_teacher", "ua_mt", "dan", "dtc", "ac_mt", "supervised"])
def test_the_same_seed_gives_the_same_network(regulariser: str) -> None:
    weights, logs = [], []
    for _ in range(2):
        log: list[dict[str, float]] = []
        weights.append(
            [p.detach().clone() for member in trained(regulariser, log).members for p in member.parameters()]
        )
        logs.append(log)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert logs[0] == logs[1]
    assert len(logs[0]) == 30
    assert logs[0][-1]["loss"] < logs[0][0]["loss"]


@pytest.mark.parametrize("name", ["unet3d", "vnet", "dynunet"])
def test_the_gradient_of_a_network_repeats(name: str) -> None:
    spec = SpecialistSpec(("block", "plate"), (8, 16, 32), (1.0, 1.0, 1.0), (32, 32, 32), network=name)
    found: list[Sequence[torch.Tensor]] = []
    for _ in range(2):
        torch.manual_seed(0)
        network = build_network(spec).to("cuda").train()
        images = torch.randn(2, 1, 32, 32, 32, device="cuda")
        with torch.backends.cudnn.flags(enabled=True, deterministic=True), torch.autocast("cuda", torch.bfloat16):
            loss = network(images).float().square().mean()
        loss.backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
