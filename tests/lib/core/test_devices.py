"""Propagation and refinement compute where they are told: on a device that is none, and on a GPU if there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from lib.core.devices import with_room
from lib.core.geometry import Volume
from lib.core.metrics import mean_dice
from lib.core.uncertainty import normalised_entropy
from lib.generalists.mind import Mind
from lib.propagation import SoftLabels, Template, create_propagator
from lib.recipes.semisam_o1.refinement import Evidence, RefinementOptions, gather, refine, usual_distance
from lib.setup.demo import DEMO_LABELS, make_phantom
from othermemory import OTHER, other_memory
from phantoms import blobs

CHANNELS = len(DEMO_LABELS) + 1
NAMES = ("registration", "prototype", "ensemble")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Wide:
    """A generalist of many channels that, like foundation models, gives its features on the CPU."""

    name = "wide"

    def encode(self, image: Tensor, spacing: object) -> Tensor:
        features = Mind().encode(image.cpu(), (1.0, 1.0, 1.0))
        mixed = torch.randn(60, len(features), generator=torch.Generator().manual_seed(0))
        return torch.einsum("kc,cdhw->kdhw", mixed, features)


def of_phantoms(name: str, device: str) -> SoftLabels:
    """Patient 0's label, carried over to patient 1."""
    (image, label, affine), (other, _, place) = make_phantom(0), make_phantom(1)
    template = Template("t", Volume(image.astype("float32"), affine), label)
    return create_propagator(name, device).propagate(template, Volume(other.astype("float32"), place), CHANNELS, Mind())


def refined(device: str) -> list[Tensor]:
    """A refined prediction, and all that it was made of."""
    options = RefinementOptions(strength=0.9)
    found: list[Evidence] = []
    predictions: list[Tensor] = []
    for number in range(3):
        scan, label = blobs((20, 22, 18), seed=number)
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(label).long(), 3).movedim(-1, 0).float()
        soft = torch.nn.functional.avg_pool3d(one_hot, 5, 1, 2, count_include_pad=False).to(device)
        image = torch.from_numpy(scan.array).float()[None].to(device)
        random = torch.Generator().manual_seed(number)
        features = Mind().encode(image, scan.spacing) if number else Wide().encode(image, scan.spacing)[:12]
        found.append(gather(image, features, soft, normalised_entropy(soft), options, random))
        predictions.append(soft)
    usual = usual_distance(found, torch.Generator().manual_seed(0))
    corrected = refine(predictions[0], found[0], found[1:], usual, options)
    assert not torch.equal(corrected.to("cpu"), predictions[0].to("cpu"))
    return [corrected, *(value for evidence in found for value in vars(evidence).values())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depth", "generalist"),
    [
        ("registration", 24, Mind),
        ("registration", 17, Mind),  # cropped otherwise: it has to be placed
        ("registration", 24, Wide),
        ("prototype", 24, Mind),
        ("prototype", 24, Wide),
        ("ensemble", 24, Mind),
    ],
)
def test_propagation_computes_where_it_is_told(name: str, depth: int, generalist: Callable[[], Mind | Wide]) -> None:
    scan, label = blobs((26, 28, 24), seed=1)
    template = Template("t", scan, label)
    other = blobs((26, 28, depth), seed=2, centre=(2, -1, 1))[0]

    def found(device: str) -> SoftLabels:
        return create_propagator(name, device).propagate(template, other, 3, generalist())

    plain = found("cpu")
    with other_memory():
        there = found(OTHER)
    assert type(there.probabilities) is type(there.confidence) is Tensor  # back on the CPU
    assert torch.equal(there.probabilities, plain.probabilities)
    assert torch.equal(there.confidence, plain.confidence)
    assert there.similarity == plain.similarity


def test_the_refinement_follows_its_tensors() -> None:
    plain = refined("cpu")
    with other_memory():
        there = refined(OTHER)
        assert all(value.device.type == OTHER for value in there)
        assert all(torch.equal(a.to("cpu"), b) for a, b in zip(there, plain, strict=True))


@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),  # CUDA's own, where other programs have left nothing at all
    ],
)
@pytest.mark.slow
def test_where_the_memory_runs_out_the_cpu_goes_on(full: Exception, caplog: pytest.LogCaptureFixture) -> None:
    scan, label = blobs((26, 28, 24), seed=1)
    other = blobs((26, 28, 24), seed=2, centre=(2, -1, 1))[0]

    class Full(Mind):
        """Stands in for whatever does not fit."""

        def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
            if image.device.type == OTHER:
                raise full
            return super().encode(image, spacing)

    for name in ("registration", "prototype"):
        caplog.clear()
        with other_memory():
            there = create_propagator(name, OTHER).propagate(Template("t", scan, label), other, 3, Full())
        assert "going on with the CPU" in caplog.text
        plain = create_propagator(name, "cpu").propagate(Template("t", scan, label), other, 3, Full())
        assert torch.equal(there.probabilities, plain.probabilities)


def test_the_cpu_has_no_other_place_to_go() -> None:
    def compute(device: str) -> None:
        raise torch.OutOfMemoryError(device)

    with pytest.raises(torch.OutOfMemoryError, match="cpu"):
        with_room("cpu", compute, "a test")


def test_tensors_of_two_devices_are_noticed() -> None:
    with other_memory(), pytest.raises(RuntimeError, match="two devices"):
        torch.ones(3).to(OTHER) + torch.ones(3)


@on_a_gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_propagates_as_the_cpu_does_and_twice_the_same(name: str) -> None:
    first, second, plain = of_phantoms(name, "cuda"), of_phantoms(name, "cuda"), of_phantoms(name, "cpu")
    assert first.probabilities.device.type == first.confidence.device.type == "cpu"
    assert torch.equal(first.probabilities, second.probabilities)
    assert torch.equal(first.confidence, second.confidence)
    # The search chooses among whole displacements: rounding alone (1e-6 of the features) costs 0.004 to 0.008.
    assert mean_dice(first.labels(), plain.labels(), CHANNELS - 1) > 0.98


@on_a_gpu
def test_a_gpu_refines_as_the_cpu_does_and_twice_the_same() -> None:
    first, second, plain = refined("cuda"), refined("cuda"), refined("cpu")
    assert all(value.device.type == "cuda" for value in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.testing.assert_close(first[0].cpu(), plain[0], atol=1e-3, rtol=0)
