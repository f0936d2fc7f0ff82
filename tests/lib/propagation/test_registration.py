"""Propagation by registration, as a user would see it."""

import numpy as np
import pytest
import torch

from lib.core.geometry import Volume
from lib.generalists import create_generalist
from lib.propagation import Template, create_propagator, matching, registration
from lib.propagation.displacement import coarse_displacement, refine_displacement
from lib.propagation.registration import RegistrationPropagator
from phantoms import blobs, dice

MIND = create_generalist("mind")


@pytest.fixture(scope="module")
def template() -> Template:
    scan, label = blobs(seed=1)
    return Template("t", scan, label)


def propagate(template: Template, scan: Volume, name: str = "registration") -> np.ndarray:
    return create_propagator(name).propagate(template, scan, 3, MIND).labels()


def scores(found: np.ndarray, truth: np.ndarray) -> list[float]:
    assert found.shape == truth.shape
    assert found.dtype == np.uint8
    return [dice(found, truth, 1), dice(found, truth, 2)]


def test_moved_organs_are_found(template: Template) -> None:
    scan, truth = blobs(seed=2, centre=(3, -3, 2))
    copied = min(scores(template.label, truth))
    assert min(scores(propagate(template, scan), truth)) > max(0.85, copied + 0.1)


@pytest.mark.parametrize(("found", "searches", "refinements"), [(0.0, 2, 1), (3.0, 2, 2)])
def test_the_search_is_repeated_and_refined_as_long_as_it_finds_something(
    template: Template, monkeypatch: pytest.MonkeyPatch, found: float, searches: int, refinements: int
) -> None:
    searched: list[torch.Tensor] = []
    refined: list[bool] = []

    def search(fixed: torch.Tensor, moving: torch.Tensor, *, stride: int, reach: int) -> torch.Tensor:
        searched.append(moving)
        field = coarse_displacement(fixed, moving, stride=stride, reach=reach)
        return field if len(searched) == 1 else torch.full_like(field, found)

    def refine(*tensors: torch.Tensor, only_change: bool = False, **how: float) -> torch.Tensor:
        refined.append(only_change)
        return refine_displacement(*tensors, only_change=only_change, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(matching, "coarse_displacement", search)
    monkeypatch.setattr(matching, "refine_displacement", refine)
    monkeypatch.setattr(matching, "with_brightness", lambda *_: None)
    scan, _ = blobs(seed=2, centre=(3, -3, 2))
    propagate(template, scan)
    assert len(searched) == searches
    assert not torch.equal(searched[0], searched[1])  # the second on what the first has matched
    assert refined == [*[False, True][:refinements], False]  # the last one closes a small grid


@pytest.mark.slow
def test_a_small_grid_is_refined_whole_at_last(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    # The mean over neighbours makes good most of what the halves leave: here the displacement alone is looked at.
    monkeypatch.setattr(registration, "fused_over_neighbours", lambda fixed, moved, labels: labels)
    scan, truth = blobs(seed=7, centre=(4, -4, 3))
    halves = RegistrationPropagator(closing=0).propagate(template, scan, 3, MIND).labels()
    assert np.mean(scores(propagate(template, scan), truth)) > np.mean(scores(halves, truth))


def test_other_orientation_spacing_and_intensity_scale(template: Template) -> None:
    scan, truth = blobs(seed=3, centre=(2, 2, -2))
    turned = Volume(
        np.ascontiguousarray(np.flip(scan.array.transpose(2, 0, 1), 0)) * 10 + 500,
        scan.affine[:, [2, 0, 1, 3]]
        @ np.array([[-1, 0, 0, scan.shape[2] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    turned_truth = np.ascontiguousarray(np.flip(truth.transpose(2, 0, 1), 0))
    assert min(scores(propagate(template, turned), turned_truth)) > 0.85


@pytest.mark.slow
def test_padding_that_moves_the_anatomy_by_20_voxels(template: Template) -> None:
    scan, truth = blobs(seed=4, centre=(2, 0, 1))
    array = scan.array.copy()
    padding = [(20, 0), (0, 12), (20, 4)]
    padded = Volume(np.pad(array, padding), scan.affine)
    plain = np.mean(scores(propagate(template, scan), truth))
    assert np.mean(scores(propagate(template, padded), np.pad(truth, padding))) > plain - 0.03


@pytest.mark.slow
def test_a_part_of_the_body_in_a_larger_field_of_view(template: Template) -> None:
    """The template shows half of what the scan shows: stretching it to the scan's box would be wrong."""
    scan, truth = blobs((72, 60, 40), seed=5)
    small = Volume(
        np.ascontiguousarray(scan.array[4:44, 10:50, 4:36]),
        scan.affine @ np.array([[1, 0, 0, 4], [0, 1, 0, 10], [0, 0, 1, 4], [0, 0, 0, 1]], dtype=float),
    )
    part = Template("part", small, np.ascontiguousarray(truth[4:44, 10:50, 4:36]))
    assert dice(propagate(part, scan), truth, 1) > 0.8


@pytest.mark.slow
def test_the_same_request_gives_the_same_answer(template: Template) -> None:
    scan, _ = blobs(seed=6)
    assert np.array_equal(propagate(template, scan), propagate(template, scan))


def test_confidence_is_in_range_and_lower_where_the_label_is_wrong(template: Template) -> None:
    scan, truth = blobs(seed=7, centre=(4, -4, 3))
    result = RegistrationPropagator(voxels=4_000).propagate(
        template, scan, 3, MIND
    )  # too coarse to be right everywhere
    confidence = result.frame.map_back(result.confidence)
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    right = result.labels() == truth
    assert confidence[~right].mean() < confidence[right].mean() - 0.1
    assert 0 <= result.mean_confidence() <= 1
    assert 0 <= result.similarity <= 1


@pytest.mark.parametrize("shape", [(3, 3, 3), (40, 44, 2), (5, 60, 7)])
def test_tiny_and_thin_scans_get_a_label_of_their_shape(template: Template, shape: tuple[int, int, int]) -> None:
    scan = Volume(np.random.default_rng(0).normal(size=shape).astype(np.float32), np.eye(4))
    assert propagate(template, scan).shape == shape


def test_prototypes_label_similar_organs(template: Template) -> None:
    scan, truth = blobs(seed=8, centre=(1, -1, 0))
    found = propagate(template, scan, "prototype")
    # Descriptors without weights tell surroundings apart, not organs: coarse is all one can ask for.
    assert scores(found, truth)[0] > 0.5
    assert scores(found, truth)[1] > 0.25


def test_prototypes_work_when_a_class_is_absent_from_the_template(template: Template) -> None:
    only_first = Template("one", template.scan, np.where(template.label == 1, 1, 0).astype(np.uint8))
    scan, _ = blobs(seed=9)
    result = create_propagator("prototype").propagate(only_first, scan, 3, MIND)
    assert set(np.unique(result.labels())) <= {0, 1}
    assert np.allclose(result.probabilities.sum(0), 1, atol=1e-4)
