"""The specialist: its grid, preprocessing, network, file and prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.uncertainty import normalised_entropy
from lib.specialists import (
    Specialist,
    SpecialistSpec,
    build_network,
    check_roi,
    choose_roi,
    choose_spacing,
    fitting_widths,
    load_specialist,
    predict,
    predict_prepared,
    prepare,
    region_of_interest,
    save_specialist,
)
from tiny_study import tiny_scan

SPEC = SpecialistSpec(("ball", "rod"), (4, 8, 8), (3.0, 3.0, 3.0), (16, 16, 16))


def volume(number: int = 1) -> Volume:
    image, _, affine = tiny_scan(number)
    return Volume(image.astype(np.float32), affine)


def specialist(spec: SpecialistSpec = SPEC, members: int = 2) -> Specialist:
    torch.manual_seed(0)
    return Specialist(spec, tuple(build_network(spec) for _ in range(members))).to("cpu")


# --- grid -------------------------------------------------------------------------------------------------------------


def test_small_scans_keep_their_spacing() -> None:
    assert choose_spacing([(35, 50, 36)] * 3, [(1, 1, 1)] * 3, 120_000) == (1, 1, 1)


def test_scans_a_little_above_the_budget_keep_their_spacing_too() -> None:
    assert choose_spacing([(35, 50, 36)] * 3, [(1, 1, 1)] * 3, 50_000) == (1, 1, 1)
    assert choose_spacing([(35, 50, 36)] * 3, [(1, 1, 1)] * 3, 30_000) != (1, 1, 1)


def test_large_scans_are_coarsened_but_thick_slices_stay() -> None:
    x, y, z = choose_spacing([(300, 300, 300)], [(0.7, 0.7, 8.0)], 120_000)
    assert z == 8.0
    assert x == y
    assert 300 / x * 300 / y * 300 / z == pytest.approx(120_000, rel=0.01)


def test_the_part_of_interest_is_the_whole_scan_unless_that_is_far_larger() -> None:
    scans = [(300.0, 300.0, 200.0)] * 3
    assert region_of_interest(scans, []) is None
    assert region_of_interest(scans, [(40, 40, 40)]) == (100, 100, 100)  # 30 mm on each side
    assert region_of_interest(scans, [(40, 40, 40), (60, 40, 40), (200, 80, 60)]) == (120, 100, 100)  # a middling one
    assert region_of_interest(scans, [(160, 30, 30)]) == (240, 90, 90)  # a quarter of the size
    assert region_of_interest(scans, [(40, 40, 190)]) == (100, 100, 200)  # no more than there is
    assert region_of_interest(scans, [(200, 200, 100)]) is None


@pytest.mark.parametrize(
    ("roi", "least", "levels"), [((64, 64, 64), 2, 5), ((24, 24, 24), 2, 5), ((8, 8, 16), 2, 4), ((16, 16, 16), 3, 4)]
)
def test_a_small_window_gets_a_network_of_fewer_levels(roi: tuple[int, int, int], least: int, levels: int) -> None:
    widths = fitting_widths((4, 8, 16, 32, 64), roi, least=least)
    assert widths == (4, 8, 16, 32, 64)[:levels]
    check_roi(roi, len(widths))


def test_fewer_levels_than_the_least_are_refused() -> None:
    widths = fitting_widths((4, 8, 16), (4, 4, 4), least=3)
    with pytest.raises(UserError, match="roi_size"):
        check_roi((4, 4, 4), len(widths))


def test_window_covers_a_scan_or_what_the_budget_allows() -> None:
    assert choose_roi([(40, 48, 30)], (1, 1, 1), 10**6) == (40, 48, 32)
    roi = choose_roi([(300, 300, 100)], (2, 2, 2), 64_000)
    assert np.prod(roi) <= 64_000
    assert all(n % 8 == 0 for n in roi)
    assert choose_roi([(5, 5, 5)], (1, 1, 1), 10**6) == (24, 24, 24)


def test_a_window_too_small_for_the_network_is_refused() -> None:
    check_roi((32, 16, 16), 5)
    for roi in ((16, 16, 16), (64, 64, 2)):
        with pytest.raises(UserError, match="too small"):
            check_roi(roi, 5)


# --- preprocessing ----------------------------------------------------------------------------------------------------


def test_prepare_has_mean_0_and_deviation_1() -> None:
    _, image = prepare(volume(), SPEC)
    assert image.shape == (1, 36, 32, 28)
    assert float(image.mean()) == pytest.approx(0, abs=1e-4)
    assert float(image.std()) == pytest.approx(1, abs=1e-3)


def test_prepare_does_not_depend_on_scale_shift_padding_or_orientation() -> None:
    scan = volume()
    _, expected = prepare(scan, SPEC)
    _, scaled = prepare(Volume(scan.array * 10 + 500, scan.affine), SPEC)
    torch.testing.assert_close(scaled, expected, atol=1e-3, rtol=0)

    padded = np.pad(scan.array, ((9, 4), (0, 3), (5, 0)), constant_values=-7)
    _, same = prepare(Volume(padded.astype(np.float32), scan.affine), SPEC)
    torch.testing.assert_close(same, expected, atol=1e-3, rtol=0)

    # axes permuted (k, i, j) and the first one reversed
    turned = np.ascontiguousarray(np.flip(scan.array.transpose(2, 0, 1), 0))
    affine = scan.affine[:, [2, 0, 1, 3]].copy()
    affine[:, 3] += affine[:, 0] * (turned.shape[0] - 1)
    affine[:, 0] *= -1
    _, upright = prepare(Volume(turned, affine), SPEC)
    torch.testing.assert_close(upright, expected, atol=1e-3, rtol=0)


def test_a_grid_that_no_memory_holds_is_refused() -> None:
    """The specialist was trained with scans in micrometres."""
    spec = replace(SPEC, spacing=(0.003, 0.003, 0.003))
    with pytest.raises(UserError, match=r"0.003 x 0.003 x 0.003 mm\) this scan has .* Check the voxel size") as caught:
        prepare(volume(), spec)
    assert caught.value.status == 413


def test_a_grid_of_one_voxel_has_an_intensity() -> None:
    spec = replace(SPEC, spacing=(500.0, 500.0, 500.0))
    assert prepare(volume(), spec)[1].tolist() == [[[[0.0]]]]


def test_an_outlier_does_not_change_the_intensities() -> None:
    scan = volume()
    _, expected = prepare(scan, SPEC)
    spoilt = scan.array.copy()
    spoilt[5, 5, 5] = 1e6
    _, image = prepare(Volume(spoilt, scan.affine), SPEC)
    assert float((image - expected).abs().median()) < 0.02


# --- network and file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 9, 21), (4, 8, 5)])
def test_network_answers_for_windows_of_any_size(size: tuple[int, int, int]) -> None:
    network = build_network(SPEC)
    logits = network(torch.randn(1, 1, *size))
    assert logits.shape == (1, 3, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_unknown_network() -> None:
    with pytest.raises(UserError, match="unet3d"):
        build_network(replace(SPEC, network="transformer"))


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    own = specialist()
    path = tmp_path / "specialist.pt"
    save_specialist(path, own.spec, own.members, {"round": 2})
    loaded = load_specialist(path)
    assert loaded.spec == own.spec
    assert loaded.notes == {"round": 2}
    image = torch.randn(1, 20, 18, 16)
    assert torch.equal(
        predict_prepared(loaded.members, loaded.spec, image), predict_prepared(own.members, own.spec, image)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["specialist.pt"]


def test_damaged_and_missing_checkpoints_say_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Train first") as missing:
        load_specialist(tmp_path / "none.pt")
    assert missing.value.status == 404
    own = specialist()
    path = tmp_path / "specialist.pt"
    save_specialist(path, own.spec, own.members)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        load_specialist(path)
    torch.save({"something": "else"}, path)
    with pytest.raises(UserError, match=r"no specialist of this app"):
        load_specialist(path)


def test_a_full_gpu_does_not_make_a_checkpoint_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = specialist()
    path = tmp_path / "specialist.pt"
    save_specialist(path, own.spec, own.members)

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lib.specialists.checkpoint.Specialist.to", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_specialist(path)


# --- prediction -------------------------------------------------------------------------------------------------------


def test_prediction_lies_on_the_scans_own_grid() -> None:
    scan = volume()
    result = predict(specialist(), scan)
    assert result.probabilities.shape == (3, 36, 32, 28)
    torch.testing.assert_close(result.probabilities.sum(0), torch.ones(36, 32, 28), atol=1e-4, rtol=0)
    assert float(result.uncertainty.min()) >= 0
    assert float(result.uncertainty.max()) <= 1
    assert result.labels().shape == scan.shape
    assert result.labels().dtype == np.uint8
    assert result.uncertainty_map().shape == scan.shape


def test_a_prediction_is_the_plain_mean_of_what_all_networks_say_about_the_scan_as_it_is() -> None:
    own = specialist(members=3)
    image = prepare(volume(), own.spec)[1]
    each = [predict_prepared([member], own.spec, image) for member in own.members]
    torch.testing.assert_close(predict_prepared(own.members, own.spec, image), torch.stack(each).mean(0))


def test_prediction_is_repeatable_and_does_not_depend_on_the_scale() -> None:
    own, scan = specialist(), volume()
    first = predict(own, scan)
    assert torch.equal(first.probabilities, predict(own, scan).probabilities)
    again = predict(own, Volume(scan.array * 10 + 500, scan.affine))
    torch.testing.assert_close(again.probabilities, first.probabilities, atol=1e-3, rtol=0)


def test_a_scan_smaller_than_window_and_reach() -> None:
    scan = Volume(np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
    result = predict(specialist(replace(SPEC, widths=(4, 8, 8, 8, 8), roi_size=(32, 32, 32))), scan)
    assert result.labels().shape == (5, 3, 2)


def test_normalised_entropy() -> None:
    values = torch.tensor([[1.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.0]])
    torch.testing.assert_close(
        normalised_entropy(values), torch.tensor([0.0, 1.0, np.log(2) / np.log(3)], dtype=torch.float32)
    )
