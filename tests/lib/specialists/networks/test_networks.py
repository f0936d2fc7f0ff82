"""Every network of the specialists: windows, slices, files, gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib.core.errors import UserError
from lib.specialists import SpecialistSpec, build_network, check_roi, load_specialist, predict_prepared, save_specialist
from lib.specialists.networks import NETWORKS
from lib.specialists.networks.dynunet import plan_levels
from lib.specialists.networks.slices import fold_slices, unfold_slices
from lib.specialists.precision import MixedPrecision
from lib.specialists.regularisers import build_regulariser
from lib.training.loop import Trainer, TrainingPlan
from training_parts import Shapes

SPEC = SpecialistSpec(("ball", "rod"), (4, 8, 8), (3.0, 3.0, 3.0), (16, 16, 16))
VOLUMES = ("unet3d", "vnet", "dynunet")
OWN = (*VOLUMES, "unet2d")


def spec(network: str, roi: tuple[int, int, int] = (16, 16, 16), **changes: object) -> SpecialistSpec:
    return replace(SPEC, network=network, roi_size=roi, **changes)  # type: ignore[arg-type]


def answers(own: SpecialistSpec, size: tuple[int, int, int], batch: int = 1) -> None:
    torch.manual_seed(0)
    network = build_network(own)
    image = torch.randn(batch, own.inputs, *size).contiguous(memory_format=torch.channels_last_3d)
    features = network.features(image)
    assert features.shape == (batch, network.width, *size)
    logits = network(image)
    assert logits.shape == (batch, own.channels, *size)
    (logits * torch.randn_like(logits)).mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert sum(float(p.grad.abs().sum()) > 0 for p in network.parameters() if p.grad is not None) > 5


def test_the_networks_are_known() -> None:
    assert set(OWN) <= set(NETWORKS)


@pytest.mark.parametrize("network", OWN)
@pytest.mark.parametrize("roi", [(16, 16, 16), (17, 9, 21), (4, 8, 5), (24, 40, 4)])
def test_any_window_that_is_accepted_works(network: str, roi: tuple[int, int, int]) -> None:
    check_roi(roi, len(SPEC.widths), network)
    answers(spec(network, roi), roi)


@pytest.mark.parametrize("network", OWN)
def test_the_smallest_window_of_a_deep_network(network: str) -> None:
    roi = (17, 4, 4) if network in VOLUMES else (17, 4, 1)
    check_roi(roi, 5, network)
    with pytest.raises(UserError, match="too small"):
        check_roi((16, 4, 4), 5, network)
    answers(spec(network, roi, widths=(4, 4, 8, 8, 8)), roi)


@pytest.mark.parametrize("network", OWN)
def test_other_sizes_than_the_window_and_colours(network: str) -> None:
    answers(spec(network, (16, 16, 16), inputs=3, spacing=(1.0, 1.0, 5.0)), (13, 18, 7), batch=2)


@pytest.mark.parametrize("network", OWN)
def test_networks_keep_no_running_statistics(network: str) -> None:
    # The average of two networks' weights must be all there is to a teacher.
    assert not list(build_network(spec(network)).buffers())


@pytest.mark.parametrize("network", OWN)
def test_the_head_takes_features_apart(network: str) -> None:
    own = build_network(spec(network)).eval()
    image = torch.randn(1, 1, 16, 12, 8)
    torch.testing.assert_close(own.classify(own.features(image)), own(image))
    assert not torch.equal(own(image), build_network(spec(network)).eval()(image))


@pytest.mark.parametrize("network", OWN)
def test_file_round_trip(network: str, tmp_path: Path) -> None:
    own = spec(network, inputs=3, slice_axis=1)
    member = build_network(own).eval()
    save_specialist(tmp_path / "s.pt", own, [member])
    loaded = load_specialist(tmp_path / "s.pt")
    assert loaded.spec == own
    image = torch.randn(3, 20, 18, 16)
    assert torch.equal(predict_prepared(loaded.members, own, image), predict_prepared([member], own, image))
    weights = sum(p.numel() for p in member.parameters())
    assert (tmp_path / "s.pt").stat().st_size < 4 * weights + 60_000  # each weight is there once


@pytest.mark.parametrize("network", OWN)
@pytest.mark.parametrize("regulariser", ["mean_teacher", "dtc"])
def test_any_network_trains_with_teachers_and_further_heads(network: str, regulariser: str) -> None:
    own = spec(network, (12, 12, 8))
    plan = TrainingPlan(epochs=1, iterations=4)  # a teacher is not asked in each step
    losses: list[float] = []
    trainer = Trainer(own, Shapes(), build_regulariser(regulariser, plan.steps), plan)
    trained = trainer.train(0, lambda _, metrics: losses.append(metrics["regulariser"]))
    assert losses[-1] > 0
    assert predict_prepared(trained.members, own, torch.randn(1, 16, 16, 16)).isfinite().all()


# --- slices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_fold_and_unfold(axis: int) -> None:
    windows = torch.randn(2, 3, 4, 5, 6)
    slices = fold_slices(windows, axis)
    assert torch.equal(unfold_slices(slices, axis, 2), windows)
    assert torch.equal(slices[1], windows[0].select(axis + 1, 1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_does_not_see_its_neighbours(axis: int) -> None:
    network = build_network(spec("unet2d", slice_axis=axis)).eval()
    image = torch.randn(2, 1, 8, 8, 8)
    changed = image.clone()
    changed.select(axis + 2, 3).add_(torch.randn(2, 1, 8, 8))
    difference = (network(image) - network(changed)).detach().abs().movedim(axis + 2, 0).flatten(1).amax(dim=1)
    assert float(difference[3]) > 1e-3
    assert float(difference[[0, 1, 2, 4, 5, 6, 7]].max()) < 1e-5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pictures_are_windows_of_one_slice(axis: int) -> None:
    roi = [16, 16, 16]
    roi[axis] = 1
    window = (roi[0], roi[1], roi[2])
    check_roi(window, 3, "unet2d", axis)
    for other in {0, 1, 2} - {axis}:
        with pytest.raises(UserError, match="too small"):
            check_roi(window, 3, "unet2d", other)
    with pytest.raises(UserError, match="too small"):
        check_roi(window, 3, "unet3d", axis)
    own = spec("unet2d", window, inputs=3, slice_axis=axis)
    answers(own, window, batch=2)
    members = [build_network(own), build_network(own)]
    picture = [3, 30, 40, 50]
    picture[axis + 1] = 1
    probabilities = predict_prepared(members, own, torch.randn(picture))
    assert probabilities.shape == (3, *picture[1:])
    torch.testing.assert_close(probabilities.sum(0), torch.ones(picture[1:]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("depth", [1, 3, 16])
def test_a_scan_is_predicted_slice_by_slice(depth: int) -> None:
    # The window's edge across the slices changes nothing: every slice gets the same answer, also where slices are
    # more than fit at once.
    torch.manual_seed(0)
    own = spec("unet2d", (128, 128, depth), widths=(2, 4))
    member = build_network(own)
    image = torch.randn(1, 128, 128, 23)
    with torch.inference_mode(), MixedPrecision("cpu")():
        expected = member.eval()(image[None]).float().softmax(dim=1)[0]
    torch.testing.assert_close(predict_prepared([member], own, image), expected, atol=1e-4, rtol=0)


# --- strides of the DynUNet -------------------------------------------------------------------------------------------


def test_strides_wait_for_fine_axes_and_stop_at_short_ones() -> None:
    kernels, strides = plan_levels(4, (1.0, 1.0, 5.0), (64, 64, 16))
    assert strides == [(1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2)]
    assert kernels[0] == (3, 3, 1)
    assert kernels[-1] == (3, 3, 3)
    _, strides = plan_levels(5, (1.0, 1.0, 1.0), (32, 16, 6))
    assert strides == [(1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 1, 1), (1, 1, 1)]


@pytest.mark.parametrize("network", ["unet3d", "unet2d"])
def test_weights_begin_as_wide_as_relus_want_them(network: str) -> None:
    """Narrower ones left some seeds with a structure that was never found."""
    torch.manual_seed(0)
    built = build_network(spec(network))
    wide = [m for m in built.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Conv3d)) and m.weight.numel() > 500]
    assert wide
    for module in wide:
        each = module.weight[0].numel()
        assert float(module.weight.std()) == pytest.approx((2 / each) ** 0.5, rel=0.15)
        assert module.bias is None or float(module.bias.abs().max()) == 0.0
