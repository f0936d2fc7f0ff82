"""Outliers are brought near the tissue before any model looks; tissue itself is never changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate

from lib.core.geometry import Volume
from lib.core.intensity import clipped, limits_of, padding_in, without_outliers
from lib.generalists import create_generalist
from lib.generalists.base import Prompts
from lib.generalists.mind import Mind
from lib.generalists.slices import window
from lib.prompting.graph_cut import GraphCut
from lib.propagation import Template, create_propagator, signature
from lib.selection import describe
from lib.specialists.prepare import normalise, seen
from phantoms import blobs, dice
from tiny_study import tiny_scan

Change = Callable[[np.ndarray], np.ndarray]


def few(value: float, count: int = 8, seed: int = 5) -> Change:
    """Some voxels get a value."""

    def change(array: np.ndarray) -> np.ndarray:
        at = np.random.default_rng(seed).choice(array.size, count, replace=False)
        array.flat[at] = value
        return array

    return change


def corners(value: float, radius: float = 1.1) -> Change:
    """Everything outside a circle in the axial plane gets a value."""

    def change(array: np.ndarray) -> np.ndarray:
        axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in array.shape[:2]], indexing="ij")
        array[sum(axis**2 for axis in axes) > radius] = value
        return array

    return change


def uneven(change: Change, deviation: float) -> Change:
    """The same, with noise on what was changed, as lossy compression leaves it."""

    def noisy(array: np.ndarray) -> np.ndarray:
        changed = change(array.copy())
        noise = np.random.default_rng(8).normal(0, deviation, array.shape)
        return np.where(changed != array, changed + noise, array)

    return noisy


def scaled(factor: float, offset: float = 0.0) -> Change:
    """Every voxel by the same rule."""
    return lambda array: (array.astype(np.float64) * factor + offset).astype(np.float32)


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(array: np.ndarray) -> np.ndarray:
        for each in changes:
            array = each(array)
        return array

    return change


OUTLIERS = {
    "hot": few(3e6),
    "cold": few(-3e6),
    "one": few(1e9, 1),
    "many": few(3e6, 500),
    "sentinel": few(-1e30),
    "largest": few(3.4e38),
    "both ends": both(few(3e6), few(-3e6, seed=6)),
    "ct padding": corners(-32768),
    "more padding": corners(-32768, 0.6),
    "padding above": corners(30000),
    "float padding": corners(-1e30),
    "two paddings": both(corners(-3024), corners(-32768, 1.5)),
    "padding and hot": both(corners(-32768), few(3e6)),
    "uneven padding": uneven(corners(-32768), 5),
    "uneven padding above": uneven(corners(30000), 20),
    "cold beyond padding": both(corners(-32768), few(-3e6)),
}


@pytest.mark.parametrize("name", OUTLIERS)
def test_outliers_take_up_no_room_and_tissue_stays_as_it_is(name: str) -> None:
    clean = blobs()[0].array
    changed = OUTLIERS[name](clean.copy())
    found = clipped(changed)
    tissue = changed == clean
    np.testing.assert_array_equal(found[tissue], clean[tissue])
    reach = clean.max() - clean.min()
    assert found.min() > clean.min() - 2 * reach
    assert found.max() < clean.max() + 2 * reach
    # Still outside of what is tissue: the outline of padding stays visible.
    assert not np.any((found[~tissue] > np.percentile(clean, 1)) & (found[~tissue] < np.percentile(clean, 99)))


CLEAN = {
    "as it is": lambda array: array,
    "background set to 0": corners(0),
    "a bright region": lambda array: np.where(np.arange(array.shape[0])[:, None, None] < 2, 400 + array, array),
    "few values": lambda array: np.round(array / 40),
    "a mask": lambda array: (array > 30).astype(np.float32),
    "a constant block": lambda array: np.where(np.arange(array.shape[1])[None, :, None] < 12, 40, array),
    "saturated": lambda array: np.minimum(array, 100),
    "hounsfield units": lambda array: corners(-1024)(np.where(array < 10, array - 1000, array * 5 - 200)),
    "hounsfield units, padded": lambda array: corners(-2000)(np.where(array < 10, array - 1000, array * 5 - 200)),
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_scan_without_outliers_is_the_very_array(name: str) -> None:
    array = CLEAN[name](blobs()[0].array.copy()).astype(np.float32)
    assert clipped(array) is array
    assert not limits_of(array).needed
    image = torch.from_numpy(array)[None]
    assert without_outliers(image) is image


def test_small_bright_objects_stay_brighter_than_the_noise_around() -> None:
    array = np.random.default_rng(0).normal(10, 1, (40, 40, 40)).astype(np.float32)
    array[10:13, 10:13, 10:13] = 5000  # 0.04 % of the scan
    found = clipped(array)
    assert found[11, 11, 11] > array[array < 1000].max() + 2


@pytest.mark.parametrize("name", ["hot", "many", "ct padding", "padding and hot"])
def test_scale_offset_flips_and_turns_play_no_part(name: str) -> None:
    changed = OUTLIERS[name](blobs()[0].array.copy()).astype(np.float32)
    found = clipped(changed)
    np.testing.assert_array_equal(clipped(changed[::-1, :, ::-1])[::-1, :, ::-1], found)
    np.testing.assert_array_equal(clipped(changed.transpose(2, 0, 1)), found.transpose(2, 0, 1))
    np.testing.assert_allclose(clipped(-changed), -found, rtol=1e-5)
    np.testing.assert_allclose(clipped(changed * 0.25 + 64), found * 0.25 + 64, rtol=1e-4, atol=1e-2)


def test_a_large_scan_is_flipped_without_a_difference() -> None:
    array = np.random.default_rng(0).normal(size=(90, 80, 70)).astype(np.float32)
    array[:, :30] = -1e4
    found = clipped(array)
    assert found.min() > -50
    np.testing.assert_array_equal(clipped(array[::-1, ::-1])[::-1, ::-1], found)


@pytest.mark.parametrize("factor", [1e-38, 1e-30, 1e30])
def test_ranges_that_single_precision_has_no_room_for_are_brought_into_it(factor: float) -> None:
    scan, _ = blobs()
    found = clipped(scaled(factor)(scan.array))
    assert 0.4 < found.max() - found.min() < 4
    clean = (scan.array - scan.array.min()) / np.ptp(scan.array)
    np.testing.assert_allclose((found - found.min()) / np.ptp(found), clean, atol=1e-4)


@pytest.mark.parametrize("name", OUTLIERS)
def test_every_view_of_a_scan_is_about_the_same_with_outliers(name: str) -> None:
    scan, _ = blobs()
    changed = Volume(OUTLIERS[name](scan.array.copy()).astype(np.float32), scan.affine)
    least = 0.5 if "padding" in name else 0.7
    assert float(signature(changed) @ signature(scan)) > least
    assert float(describe(changed, Mind()) @ describe(scan, Mind())) > least
    # The middle of the body, away from corners and most outliers.
    middle = (slice(None), slice(12, 28), slice(12, 32), slice(10, 26))
    raw, clean = (torch.from_numpy(v.array)[None] for v in (changed, scan))
    for look in (lambda x: Mind().encode(x, (1.0, 1.0, 1.0)), window):
        near = (look(raw)[middle] - look(clean)[middle]).abs()
        assert float(near.median()) < 0.15
    specialist = [normalise(seen(frame_of_all(v), v, 1))[middle].flatten() for v in (changed, scan)]
    assert float(torch.corrcoef(torch.stack(specialist))[0, 1]) > 0.6


def frame_of_all(scan: Volume):  # type: ignore[no-untyped-def]
    """The scan's whole grid, without looking at its content."""
    from dataclasses import replace

    from lib.core.frames import frame_of

    frame = frame_of(scan)
    d, h, w = scan.shape
    return replace(frame, box=((0, d), (0, h), (0, w)), shape=scan.shape)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["hot", "many", "ct padding", "padding above", "float padding", "uneven padding"])
def test_propagation_is_not_blinded(name: str) -> None:
    template = Template("t", *blobs(seed=1))
    scan, label = blobs(seed=2, centre=(2, -1, 1))
    changed = Volume(OUTLIERS[name](scan.array.copy()).astype(np.float32), scan.affine)
    found = create_propagator("registration", "cpu").propagate(template, changed, 3, create_generalist("mind"))
    assert min(dice(found.labels(), label, value) for value in (1, 2)) > 0.8


def test_padding_that_resampling_has_blurred_is_recognised() -> None:
    padded = rotate(corners(-32768)(blobs()[0].array.copy()), 10, axes=(0, 1), reshape=False, order=1, cval=-32768)
    assert clipped(padded).min() > -3000


def zeros_around(radius: float = 1.1) -> Change:
    """An MR scan whose tissue has values of about 1000, with zeros outside a circle: no outliers."""
    return both(scaled(1, 1000), corners(0, radius))


def clicked(array: np.ndarray, label: np.ndarray, value: int, spacing: tuple[float, float, float]) -> float:
    """Dice of what a click in the middle of a structure gives."""
    inside = np.argwhere(label == value)
    middle = inside[np.abs(inside - inside.mean(0)).sum(1).argmin()]
    prompts = Prompts(torch.tensor(middle, dtype=torch.float32)[None], torch.tensor([True]))
    answer = GraphCut().open(torch.from_numpy(array)[None], spacing).segment(prompts).numpy() > 0.5
    return dice((answer * value).astype(int), label, value)


@pytest.mark.parametrize(
    "change",
    [*(OUTLIERS[name] for name in ("hot", "ct padding", "padding above")), corners(3000), zeros_around()],
    ids=["hot", "ct padding", "padding above", "padding of 3000", "zeros around tissue of 1000"],
)
@pytest.mark.slow
def test_a_click_finds_as_much_as_without(change: Change) -> None:
    image, label, affine = tiny_scan(1)
    spacing = Volume(image, affine).spacing
    for value in (1, 2):
        plain, array = image.astype(np.float32), change(image.astype(np.float32)).astype(np.float32)
        assert clicked(array, label, value, spacing) > clicked(plain, label, value, spacing) - 0.02


def test_padding_is_not_taken_from_who_clicks_on_it() -> None:
    """A saturated block at the edge of the scan is what a person points at."""
    array = np.random.default_rng(0).normal(100, 5, (32, 30, 24)).astype(np.float32)
    array[:10, 8:20, 6:18] = 4095
    label = (array == 4095).astype(np.uint8)
    assert padding_in(array) == (4095,)
    assert clicked(array, label, 1, (2, 2, 2)) > 0.8  # 0 if it were padding


def test_what_is_no_padding() -> None:
    scan, _ = blobs()
    dark = np.maximum(scan.array, np.percentile(scan.array, 30))  # as clipped to a window: no gap to the rest
    inside = scan.array.copy()
    inside[10:20, 10:20, 10:20] = 4095  # an implant, which no face of the scan has
    assert padding_in(scan.array) == padding_in(dark) == padding_in(inside) == ()
