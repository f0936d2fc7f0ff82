"""Where a template lies on a scan to begin with: by both headers' directions, or found where they do not tell."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform, rotate
from scipy.spatial.transform import Rotation

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.generalists import create_generalist
from lib.propagation import Template, create_propagator, registration
from lib.propagation.affine_placement import AffinePlacement, Start
from lib.propagation.registration import RegistrationPropagator
from lib.propagation.start import find_start
from phantoms import dice, texture

MIND = create_generalist("mind")
SHAPE = (48, 44, 40)


@pytest.fixture(scope="module")
def template() -> Template:
    return Template("t", *organs(0))


def organs(seed: int) -> tuple[Volume, np.ndarray]:
    """An unsymmetric anatomy with one structure."""
    scan, label = texture(seed)
    return Volume(scan.array[::2, ::2, ::2].copy(), np.diag([3.0, 3, 3, 1])), label[::2, ::2, ::2].copy()


def turned(scan: Volume, label: np.ndarray, turn: Rotation, *, told: bool) -> tuple[Volume, np.ndarray]:
    """The same anatomy seen along other axes; ``told`` whether the header says so."""
    matrix = turn.as_matrix()
    middle = (np.array(scan.shape) - 1) / 2
    offset = middle - matrix @ middle
    array = affine_transform(scan.array, matrix, offset, order=1, mode="nearest")
    moved = affine_transform(label, matrix, offset, order=0)
    affine = scan.affine.copy()
    if told:
        affine = scan.affine @ np.block([[matrix, offset[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
    return Volume(array, affine), moved


def found(template: Template, scan: Volume) -> np.ndarray:
    return create_propagator("registration").propagate(template, scan, 2, MIND).labels()


def start_for(template: Template, scan: Volume) -> Start | None:
    from lib.propagation.placement import find_placement

    own = RegistrationPropagator()._working(scan)
    other = frame_of(template.scan).with_spacing(own.spacing)
    guess = find_placement(own, own.image(scan.clipped), other, template.scan)
    with torch.no_grad():
        return find_start(scan, own, template, guess, other.with_shape(guess.shape))


def test_a_scan_with_the_directions_of_the_template_is_begun_as_it_lies(template: Template) -> None:
    scan, _ = organs(1)
    assert start_for(template, scan) is None


def test_oblique_directions_in_the_headers_are_followed(template: Template) -> None:
    scan, truth = turned(*organs(1), Rotation.from_euler("xyz", [25, -20, 35], degrees=True), told=True)
    assert dice(found(template, scan), truth, 1) > 0.75


@pytest.mark.parametrize("degrees", [30, 90, 180])
def test_a_scan_turned_in_its_plane_without_a_word_in_its_header_is_found(template: Template, degrees: float) -> None:
    scan, truth = turned(*organs(1), Rotation.from_euler("z", degrees, degrees=True), told=False)
    assert dice(found(template, scan), truth, 1) > 0.75


def test_a_scan_tilted_out_of_its_plane_is_found(template: Template) -> None:
    scan, truth = turned(*organs(1), Rotation.from_euler("x", 20, degrees=True), told=False)
    assert dice(found(template, scan), truth, 1) > 0.75


def test_a_picture_turned_by_a_quarter_is_found() -> None:
    scan, label = organs(0)
    other, truth = organs(1)
    slices = [Volume(each.array[:, :, 22:23].copy(), each.affine) for each in (scan, other)]
    masks = [each[:, :, 22:23].copy() for each in (label, truth)]
    quarter = Volume(np.rot90(slices[1].array).copy(), slices[1].affine)
    answer = found(Template("t", slices[0], masks[0]), quarter)
    assert dice(answer, np.rot90(masks[1]), 1) > 0.7


def test_a_picture_turned_on_a_larger_canvas_is_found() -> None:
    scan, label = organs(0)
    other, truth = organs(1)
    array, mask = other.array[:, :, 22], truth[:, :, 22]
    shown = Volume(rotate(array, 30, order=1, cval=float(array.min()))[..., None].astype(np.float32), other.affine)
    template = Template("t", Volume(scan.array[:, :, 22:23].copy(), scan.affine), label[:, :, 22:23].copy())
    assert dice(found(template, shown), rotate(mask, 30, order=0)[..., None], 1) > 0.7


@pytest.mark.parametrize(("known", "other", "taken"), [(0.5, 0.6, True), (0.5, 0.51, False), (0.9, 1.0, False)])
def test_another_start_is_taken_only_where_a_quick_matching_agrees_clearly_better(
    template: Template, monkeypatch: pytest.MonkeyPatch, known: float, other: float, taken: bool
) -> None:
    scan, _ = organs(1)
    as_it_lies, affine = (Start(np.column_stack([np.eye(3) * scale, np.zeros(3)])) for scale in (1.0, 1.1))
    agreement = {id(as_it_lies): known, id(affine): other}

    def quick(_: object, template: Template, scan: Volume, channels: int, generalist: object, start: Start) -> object:
        return SimpleNamespace(agreement=agreement[id(start)])

    monkeypatch.setattr(RegistrationPropagator, "_affine", quick)
    monkeypatch.setattr(registration, "affine_start", lambda *_: affine)
    found = RegistrationPropagator()._other_start(template, scan, 2, as_it_lies)
    assert (found is affine) == taken
    assert found is None or taken


@pytest.mark.parametrize(("step", "looked"), [(15, False), (2, True)])
def test_another_start_is_not_looked_for_in_a_few_slices(
    monkeypatch: pytest.MonkeyPatch, step: int, looked: bool
) -> None:
    """Of four, the working grid makes more voxels."""
    scan, label = texture(0, shape=(120, 120, 60))
    thick = Volume(scan.array[:, :, ::step].copy(), np.diag([1.0, 1, step, 1]))
    propagator = RegistrationPropagator(voxels=150_000, iterations=1, closing=0, refine=False)
    assert min(propagator._working(thick).shape) >= 18
    asked: list[Volume] = []
    monkeypatch.setattr(registration, "find_start", lambda *_: None)
    monkeypatch.setattr(RegistrationPropagator, "_other_start", lambda _, template, scan, *more: asked.append(scan))
    propagator.propagate(Template("t", thick, label[:, :, ::step].copy()), thick, 2, MIND)
    assert bool(asked) == looked


def test_what_the_template_does_not_cover_is_no_agreement(template: Template) -> None:
    """Half of the scan is noise that a half of the template was cut away from."""
    scan, _ = organs(1)
    part = replace(template.scan, array=template.scan.array[:, :, 8:32].copy())
    noise = np.random.default_rng(0).normal(size=scan.shape).astype(np.float32)
    unlike = create_propagator("registration").propagate(
        Template("p", part, template.label[:, :, 8:32].copy()), replace(scan, array=noise), 2, MIND
    )
    assert unlike.similarity < 0.2


def test_an_affine_placement_puts_values_where_the_map_says_and_knows_what_it_covers() -> None:
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    swapped = AffinePlacement((2, 3, 4), np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 1]]))
    placed = swapped.place(values, (4, 3, 2), fill=-1)
    assert placed[0, 0, 1, 1] == values[0, 1, 1, 1]
    assert (placed[0, 3] == -1).all()
    assert float(swapped.covered((4, 3, 2)).sum()) == 18


def test_a_start_means_the_same_on_every_grid() -> None:
    scan, _ = organs(0)
    frame = frame_of(scan)
    matrix = np.column_stack([Rotation.from_euler("z", 90, degrees=True).as_matrix(), [10.0, 20, 30]])
    start = Start(matrix)
    fine, coarse = (start.placement(frame.with_shape(shape), frame) for shape in (SHAPE, (24, 22, 20)))
    at = fine.matrix @ [10.5, 8.5, 6.5, 1]
    np.testing.assert_allclose(coarse.matrix @ [5, 4, 3, 1], at, atol=1e-6)
    assert math.isclose(abs(np.linalg.det(fine.matrix[:, :3])), 1.0, rel_tol=1e-6)
