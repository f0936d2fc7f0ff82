"""The part of a scan where the structures are is matched again on a finer grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.generalists.mind import Mind
from lib.propagation import SoftLabels, Template, propagate_from, refine_in_roi
from lib.propagation.placement import Placement
from lib.propagation.refine_in_roi import grids_in_roi
from lib.propagation.registration import RegistrationPropagator
from phantoms import dice, texture

OUTLINED, LABEL = texture(1)
OTHER, TRUTH = texture(2)
MATCHER = RegistrationPropagator(voxels=16_000, device="cpu")


def carried(template: Template, scan: Volume = OTHER) -> SoftLabels:
    return MATCHER.propagate(template, scan, 2, Mind())


def test_a_small_structure_of_a_large_scan_is_outlined_finely(monkeypatch: pytest.MonkeyPatch) -> None:
    found = carried(Template("t", OUTLINED, LABEL))
    monkeypatch.setattr(refine_in_roi, "MOST_OF_SCAN", 0.0)
    plain = carried(Template("t", OUTLINED, LABEL))
    assert plain.frame.box == frame_of(OTHER).box
    assert found.frame.spacing[0] < 0.7 * plain.frame.spacing[0]
    assert dice(found.labels(), TRUTH, 1) > max(0.85, dice(plain.labels(), TRUTH, 1) + 0.05)


def test_it_does_not_matter_how_much_of_the_template_was_scanned_and_which_way_round() -> None:
    part = (slice(14, 96), slice(0, 75), slice(12, 80))
    affine = OUTLINED.affine.copy()
    affine[:3, 3] = [14 * 1.5, 0, 12 * 1.5]
    turned = affine @ np.array([[0, -1, 0, 81], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)

    def stored(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.flip(array[part], 0).transpose(1, 0, 2))

    found = carried(Template("t", Volume(stored(OUTLINED.array), turned), stored(LABEL)))
    assert found.frame.box != frame_of(OTHER).box
    assert dice(found.labels(), TRUTH, 1) > 0.85


@pytest.mark.slow
def test_pictures_are_looked_at_closer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def plane(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[:, :, 45:46])

    def picture(scan: Volume) -> Volume:
        return Volume(plane(scan.array), scan.affine)

    other, truth = texture(2, still=2)
    template = Template("t", picture(texture(1, still=2)[0]), plane(texture(1, still=2)[1]))
    matcher = RegistrationPropagator(voxels=1_000, device="cpu")
    found = matcher.propagate(template, picture(other), 2, Mind())
    monkeypatch.setattr(refine_in_roi, "MOST_OF_SCAN", 0.0)
    plain = matcher.propagate(template, picture(other), 2, Mind())
    assert found.frame.shape[2] == 1
    assert found.frame.spacing[0] < 0.8 * plain.frame.spacing[0]
    assert dice(found.labels(), plane(truth), 1) > 0.9


@pytest.mark.slow
def test_labels_of_different_parts_are_fused() -> None:
    elsewhere = np.roll(LABEL, (-25, 20, -10), (0, 1, 2))
    templates = [Template("a", OUTLINED, LABEL), Template("b", OUTLINED, 2 * elsewhere)]
    parts = [MATCHER.propagate(template, OTHER, 3, Mind()).frame.box for template in templates]
    found = propagate_from(templates, OTHER, 3, generalist=Mind(), propagator=MATCHER)
    torch.testing.assert_close(found.probabilities.sum(0), torch.ones(found.frame.shape))
    for axis in range(3):
        assert found.frame.box[axis][0] == min(part[axis][0] for part in parts) < max(part[axis][0] for part in parts)


def test_a_small_structure_beside_a_large_one_is_not_cut_away() -> None:
    where = np.stack(np.meshgrid(*[np.arange(n) for n in LABEL.shape], indexing="ij"), -1)
    label = np.zeros_like(LABEL)
    label[((where - (60, 34, 45)) ** 2).sum(-1) < 10**2] = 1
    label[((where - (60, 34, 14)) ** 2).sum(-1) < 2.5**2] = 2
    matcher = RegistrationPropagator(voxels=12_000, device="cpu")
    found = matcher.propagate(Template("t", OUTLINED, label), OTHER, 3, Mind())
    assert found.frame.box != frame_of(OTHER).box
    assert found.frame.box[2][0] < 12
    assert 2 in found.labels()


def test_templates_are_compared_by_what_the_first_look_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = carried(Template("t", OUTLINED, LABEL))
    assert 0.3 < found.elsewhere < 1
    monkeypatch.setattr(refine_in_roi, "MOST_OF_SCAN", 0.0)
    assert carried(Template("t", OUTLINED, LABEL)).similarity == found.similarity


@pytest.mark.parametrize("thick", [0, 2])
def test_thick_slices(thick: int) -> None:
    def merged(array: np.ndarray, kind: str) -> np.ndarray:
        moved = np.moveaxis(array, thick, 0)
        groups = moved[: len(moved) // 4 * 4].reshape(-1, 4, *moved.shape[1:])
        flat = groups.mean(1) if kind == "mean" else groups[:, 1]
        return np.ascontiguousarray(np.moveaxis(flat, 0, thick))

    pitch = [6.0 if axis == thick else 1.5 for axis in range(3)]
    affine = np.diag([*pitch, 1.0])
    template = Template("t", Volume(merged(OUTLINED.array, "mean"), affine), merged(LABEL, "one"))
    truth = merged(TRUTH, "one")
    found = carried(template, Volume(merged(OTHER.array, "mean").astype(np.float32), affine))
    assert dice(found.labels(), truth, 1) > 0.7


def test_a_label_of_a_part_is_background_elsewhere() -> None:
    found = carried(Template("t", OUTLINED, LABEL))
    whole = frame_of(OTHER).with_voxels(50_000, 8)
    moved = found.on(whole)
    torch.testing.assert_close(moved.probabilities.sum(0), torch.ones(whole.shape))
    assert moved.confidence.shape == whole.shape
    assert dice(moved.labels(), found.labels(), 1) > 0.85
    assert float(moved.probabilities[0, 0, 0, 0]) == 1
    assert float(moved.confidence[0, 0, 0]) == pytest.approx(found.elsewhere)


@pytest.mark.parametrize("marked", ["nothing", "most", "coarse scan"])
def test_no_closer_look_where_nothing_is_gained(marked: str) -> None:
    scan = frame_of(OTHER)
    first = scan if marked == "coarse scan" else scan.with_voxels(16_000, 18)
    inside = torch.zeros(first.shape, dtype=torch.bool)
    if marked == "most":
        inside[2:-2, 2:-2, 2:-2] = True
    elif marked == "coarse scan":
        inside[40:50, 40:50, 40:50] = True
    place = Placement(first.shape, (0, 0, 0))
    assert grids_in_roi(first, first, place, inside, torch.zeros(3, *first.shape), voxels=16_000, least=18) is None


def test_the_first_look_is_where_the_second_begins() -> None:
    """A template that is the scan itself, moved: the start alone brings every place to its own."""
    frame = frame_of(OTHER).with_voxels(16_000, 18)
    inside = torch.zeros(frame.shape, dtype=torch.bool)
    inside[14:17, 8:11, 12:15] = True
    moved = 2.3
    displacement = torch.full((3, *frame.shape), moved)
    look = grids_in_roi(frame, frame, Placement(frame.shape, (1, 0, -1)), inside, displacement, voxels=16_000, least=18)
    assert look is not None
    for axis, offset in enumerate((1, 0, -1)):
        own = look.scan.box[axis][0] + 0.5 * look.scan.spacing[axis] / look.scan.voxel[axis]
        there = (0.5 + float(look.start[axis].mean()) - look.place.offset[axis]) * look.template.spacing[axis]
        other = look.template.box[axis][0] + there / look.template.voxel[axis]
        expected = (moved - offset) * frame.spacing[axis] / frame.voxel[axis]
        assert other - own == pytest.approx(expected, abs=0.3)
