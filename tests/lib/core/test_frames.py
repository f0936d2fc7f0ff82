"""Every storage order, spacing and padding leads to the same canonical array, and results come back in place."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.core.frames import Frame, common_frame, content_box, frame_of
from lib.core.geometry import Volume
from lib.core.resampling import resize

ORIENTATIONS = [(axes, flips) for axes in permutations(range(3)) for flips in product((False, True), repeat=3)]


def ball_scan(shape: tuple[int, int, int] = (22, 18, 14)) -> tuple[Volume, np.ndarray]:
    """A scan with two structures off the centre, and their label map; RAS, 1 x 1.5 x 2 mm."""
    rng = np.random.default_rng(0)
    label = np.zeros(shape, np.uint8)
    label[3:10, 4:11, 2:7] = 1
    label[12:19, 6:14, 6:12] = 2
    array = (rng.normal(100, 5, shape) + 60.0 * label).astype(np.float32)
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[:3, 3] = [-10, 20, 5]
    return Volume(array, affine), label


def reorient(
    array: np.ndarray, affine: np.ndarray, axes: tuple[int, ...], flips: tuple[bool, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Store the same anatomy with axis ``n`` being the old axis ``axes[n]``, running backwards where flipped."""
    stored = np.flip(array.transpose(axes), [n for n in range(3) if flips[n]])
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for n, axis in enumerate(axes):
        back[axis, n] = -1 if flips[n] else 1
        back[axis, 3] = array.shape[axis] - 1 if flips[n] else 0
    return np.ascontiguousarray(stored), affine @ back


def whole_at_once(frame: Frame, probabilities: torch.Tensor) -> np.ndarray:
    """``labels_back`` without leaving anything out: every plane, every class, every voxel."""
    size = frame.crop(np.empty(frame.source_shape)).shape
    depth = min(frame.shape[0], size[0])
    probabilities = resize(probabilities, (depth, *frame.shape[1:]))
    planes = [resize(probabilities[:, k : k + 1], (1, *size[1:]))[:, 0] for k in range(depth)]
    label = np.zeros(frame.source_shape, dtype=np.uint8)
    for n, plane in enumerate(frame.crop(label)):
        position = min(max((n + 0.5) * depth / size[0] - 0.5, 0.0), depth - 1.0)
        low = int(position)
        plane[...] = torch.lerp(planes[low], planes[min(low + 1, depth - 1)], position - low).argmax(0).numpy()
    return label


@pytest.mark.parametrize("shape", [(9, 8, 7), (30, 11, 50), (4, 30, 13), (40, 40, 40)])
def test_large_scans_are_worked_on_in_parts_with_the_same_result(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(3)
    array = random.normal(size=(23, 31, 19)).astype(np.float32)
    label = np.zeros(array.shape, dtype=np.uint8)
    label[4:9, 10:20, 3:6], label[12:13, 5:6, 9:15], label[15:, 20:, 10:] = 1, 2, 3
    affine = np.array([[0, -1.5, 0, 0], [0, 0, 2, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    frame = frame_of(Volume(array, affine)).with_shape(shape)
    content = torch.from_numpy(np.array(frame.crop(array)))[None]
    turned = torch.from_numpy(np.array(frame.crop(label)))
    torch.testing.assert_close(frame.image(array), resize(content, shape))
    torch.testing.assert_close(frame.image(np.asfortranarray(array)), resize(content, shape))
    soft = torch.cat([resize((turned == c).float()[None], shape) for c in range(4)])
    torch.testing.assert_close(frame.one_hot(label, 4), soft)
    noise = torch.rand((4, *shape), generator=torch.Generator().manual_seed(0)).softmax(0)
    for probabilities in (soft, noise, (5 * soft).softmax(0)):
        np.testing.assert_array_equal(frame.labels_back(probabilities), whole_at_once(frame, probabilities))


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_storage_order_does_not_matter_and_labels_come_back(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    scan, label = ball_scan()
    turned = Volume(*reorient(scan.array, scan.affine, axes, flips))
    turned_label, _ = reorient(label, scan.affine, axes, flips)
    frame = frame_of(turned)
    np.testing.assert_array_equal(frame.image(turned.array)[0].numpy(), scan.array)
    assert frame.spacing == pytest.approx((1.0, 1.5, 2.0))
    np.testing.assert_array_equal(frame.crop(turned_label), label)
    back = frame.labels_back(frame.one_hot(turned_label, 3))
    assert back.dtype == np.uint8
    assert back.flags.f_contiguous  # as files hold it
    np.testing.assert_array_equal(back, turned_label)


@pytest.mark.parametrize("degrees", [5, 30, 44, 60, 91])
def test_oblique_scans_take_the_nearest_axes(degrees: float) -> None:
    scan, label = ball_scan()
    angle = np.deg2rad(degrees)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = Volume(scan.array, rotation @ scan.affine)
    frame = frame_of(oblique)
    # Beyond 45 degrees the first axis points anterior and the second to the left.
    assert frame.axes == ((0, 1, 2) if degrees < 45 else (1, 0, 2))
    assert frame.flips == (False, False, False) if degrees < 45 else (True, False, False)
    assert sorted(frame.spacing) == pytest.approx([1.0, 1.5, 2.0])
    np.testing.assert_array_equal(frame.labels_back(frame.one_hot(label, 3)), label)


@pytest.mark.parametrize("axes_flips", [((0, 1, 2), (False,) * 3), ((2, 0, 1), (True, False, True))])
@pytest.mark.parametrize(
    "widths", [((20, 0),) * 3, ((0, 20),) * 3, ((7, 3), (0, 9), (4, 4)), ((0, 0), (0, 20), (20, 0))]
)
def test_constant_padding_changes_nothing(
    widths: tuple[tuple[int, int], ...], axes_flips: tuple[tuple[int, ...], tuple[bool, ...]]
) -> None:
    scan, label = ball_scan()
    shift = np.eye(4)
    shift[:3, 3] = [-before for before, _ in widths]
    padded = Volume(*reorient(np.pad(scan.array, widths, constant_values=-7), scan.affine @ shift, *axes_flips))
    padded_label, _ = reorient(np.pad(label, widths), scan.affine, *axes_flips)
    frame = frame_of(padded)
    np.testing.assert_array_equal(frame.image(padded.array)[0].numpy(), scan.array)
    back = frame.labels_back(frame.one_hot(padded_label, 3))
    assert back.shape == padded.shape
    np.testing.assert_array_equal(back, padded_label)


def test_content_box_of_odd_cases() -> None:
    noise = np.random.default_rng(1).random((6, 5, 4))
    assert content_box(noise) == ((0, 6), (0, 5), (0, 4))
    one = np.zeros((6, 5, 4))
    one[5, 0, 2] = 1
    box = content_box(one)
    assert all(last - first >= 2 for first, last in box)
    assert all(first <= at < last for (first, last), at in zip(box, (5, 0, 2), strict=True))
    assert content_box(np.zeros((6, 5, 4))) == ((0, 6), (0, 5), (0, 4))


@pytest.mark.parametrize("spacing", [(2.0, 3.0, 4.0), (0.5, 0.75, 1.0), (1.25, 1.25, 1.25), (0.6, 3.1, 0.9)])
def test_resampled_labels_keep_place_and_volume(spacing: tuple[float, float, float]) -> None:
    scan, label = ball_scan()
    frame = frame_of(scan).with_spacing(spacing)
    assert frame.extent == pytest.approx((22.0, 27.0, 28.0))
    assert all(abs(a - b) / b < 0.1 for a, b in zip(frame.spacing, spacing, strict=True))
    soft = frame.one_hot(label, 3)
    assert soft.shape == (3, *frame.shape)
    torch.testing.assert_close(soft.sum(0), torch.ones(frame.shape))
    back = frame.labels_back(soft)
    for value in (1, 2):
        before, after = np.argwhere(label == value), np.argwhere(back == value)
        assert len(after) == pytest.approx(len(before), rel=0.25)
        # No drift: the centre stays within a third of a voxel.
        np.testing.assert_allclose(after.mean(0), before.mean(0), atol=0.34)
    if max(a / b for a, b in zip(spacing, scan.spacing, strict=True)) <= 0.5:
        np.testing.assert_array_equal(back, label)


def full_interpolation(frame: Frame, probabilities: Tensor) -> np.ndarray:
    """What ``labels_back`` must equal, done in one piece (RAS scans without padding only)."""
    return resize(probabilities, frame.source_shape).argmax(0).numpy().astype(np.uint8)


@pytest.mark.parametrize("shape", [(11, 9, 7), (5, 18, 20), (22, 18, 14), (30, 4, 3), (44, 36, 28), (1, 1, 1)])
def test_labels_back_equals_argmax_of_full_interpolation(shape: tuple[int, int, int]) -> None:
    scan, _ = ball_scan()
    frame = frame_of(scan).with_shape(shape)
    noise = torch.rand((4, *shape), generator=torch.Generator().manual_seed(0)).softmax(0)
    expected = full_interpolation(frame, noise)
    # Rounding may turn a near tie.
    assert (frame.labels_back(noise) == expected).mean() > 0.999


def test_map_back_places_values_and_leaves_padding_zero() -> None:
    scan, _ = ball_scan()
    padded = Volume(*reorient(np.pad(scan.array, 3), scan.affine, (1, 2, 0), (True, False, True)))
    frame = frame_of(padded)
    back = frame.map_back(torch.from_numpy(scan.array))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, padded.array, rtol=1e-6)


def test_an_array_of_another_scan_is_refused() -> None:
    scan, label = ball_scan()
    with pytest.raises(ValueError, match="belongs to"):
        frame_of(scan).crop(label[:-1])


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS[::5])
def test_a_part_is_the_same_part_however_the_scan_is_stored(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    scan, label = ball_scan()
    array, affine = reorient(scan.array, scan.affine, axes, flips)
    stored, _ = reorient(label, scan.affine, axes, flips)
    frame = frame_of(Volume(array, affine)).with_shape((11, 9, 7))
    inside = frame.one_hot(stored, 3)[2] > 0.01
    part = frame.around(inside, margin=2.0)
    assert part.box == ((10, 22), (4, 16), (5, 13))  # 2 mm more on each side, but not beyond the scan
    assert part.shape == (12, 12, 8)
    np.testing.assert_array_equal(part.crop(stored), label[10:22, 4:16, 5:13])


def test_values_of_a_part_go_where_they_belong() -> None:
    frame = frame_of(Volume(np.random.default_rng(0).normal(size=(24, 20, 16)).astype(np.float32), np.eye(4)))
    ramp = torch.arange(24.0).view(24, 1, 1).expand(24, 20, 16)[None]
    inside = torch.zeros(frame.shape, dtype=torch.bool)
    inside[6:18, 5:15, 4:12] = True
    part = frame.around(inside, margin=0.0)
    values = ramp[:, 6:18, 5:15, 4:12]
    whole, covered = part.onto(values, frame)
    torch.testing.assert_close(whole, ramp * inside)
    torch.testing.assert_close(covered, inside[None].float())
    coarse, _ = part.onto(values, frame.with_shape((12, 10, 8)))
    torch.testing.assert_close(coarse[0, 4:8, 5, 4], torch.tensor([8.5, 10.5, 12.5, 14.5]))
    back, covered = frame.onto(ramp, part)
    torch.testing.assert_close(back, values)
    assert float(covered.min()) == 1


def test_a_common_frame_is_around_all_and_as_fine_as_the_finest() -> None:
    frame = frame_of(Volume(np.random.default_rng(0).normal(size=(24, 20, 16)).astype(np.float32), np.eye(4)))
    inside = torch.zeros(frame.shape, dtype=torch.bool)
    inside[6:12, 6:12, 6:12] = True
    part, other = frame.around(inside, 0.0), frame.around(inside, 3.0).with_shape((6, 6, 6))
    assert common_frame([frame.with_shape((5, 5, 5)), frame]) == frame.with_shape((5, 5, 5))
    both = common_frame([part, other])
    assert both.box == ((3, 15), (3, 15), (3, 15))
    assert both.spacing == (1.0, 1.0, 1.0)


def test_lengths_of_another_unit_do_not_blow_up_a_grid_of_mm() -> None:
    """A header that says metres or micrometres where mm are meant: 2000 mm voxels, or 0.002 mm."""
    array = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)
    right, *others = (frame_of(Volume(array, np.diag([2.0 * u, 2.0 * u, 3.0 * u, 1.0]))) for u in (1, 1000, 0.001))
    assert right.with_spacing((1, 1, 1)).shape == (24, 20, 24)
    for other in others:
        assert other.with_spacing((1, 1, 1)).shape == (24, 20, 24)
        assert other.voxel == pytest.approx(right.voxel)
