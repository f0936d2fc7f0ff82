"""Specialists that work on a part of a scan: where it lies, and that they look there and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.generalists.mind import Mind
from lib.propagation import SoftLabels, Template, create_propagator, find_roi
from lib.recipes import Case
from lib.selection.judge import Asked, Basis, Judge
from lib.selection.subject import Subject
from lib.specialists import Specialist, SpecialistSpec, build_network, roi_of, save_specialist
from lib.specialists import predict_in_roi as located
from lib.specialists.networks import SpecialistNetwork
from lib.specialists.predict_in_roi import predict_in_roi
from phantoms import dice, texture

SPEC = SpecialistSpec(("nodule",), (4, 8), (2.0, 2.0, 2.0), (24, 24, 24), part=(60.0, 60.0, 60.0))
OTHER, TRUTH = texture(2)


def marked(frame: Frame, *where: slice) -> Tensor:
    inside = torch.zeros(frame.shape, dtype=torch.bool)
    inside[where] = True
    return inside


def test_a_part_has_its_size_with_the_structures_in_the_middle() -> None:
    frame = frame_of(OTHER)  # 96 x 88 x 80 voxels of 1.5 mm
    part = roi_of(frame, marked(frame, slice(40, 50), slice(40, 50), slice(40, 50)), frame, SPEC)
    assert part.box == ((25, 65), (25, 65), (25, 65))
    assert part.shape == (40, 40, 40)
    coarse = frame.with_shape((24, 22, 20))
    assert roi_of(frame, marked(coarse, slice(10, 12), slice(10, 12), slice(10, 12)), coarse, SPEC).extent == (
        60,
        60,
        60,
    )


def test_a_part_ends_where_the_scan_ends_and_has_room_for_all_structures() -> None:
    frame = frame_of(OTHER)
    part = roi_of(frame, marked(frame, slice(0, 8), slice(20, 70), slice(60, 80)), frame, SPEC)
    assert part.box[0] == (0, 40)
    assert part.box[1] == (13, 77)  # 75 mm, and 10 on each side
    assert part.box[2] == (40, 80)


def test_a_specialist_for_whole_scans_has_no_part() -> None:
    frame = frame_of(OTHER)
    inside = marked(frame, slice(40, 50), slice(40, 50), slice(40, 50))
    assert roi_of(frame, inside, frame, replace(SPEC, part=None)) == frame


@pytest.mark.slow
def test_an_outlined_scan_says_where_to_look() -> None:
    outlined, label = texture(1)
    found = find_roi(Template("t", outlined, label * 7), OTHER, "cpu")  # whatever the structure's number
    assert dice(found.labels(), TRUTH, 1) > 0.5


class Bright(SpecialistNetwork):
    """Finds the structure wherever it is bright."""

    width = 1

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.ones(()))

    def features(self, image: Tensor) -> Tensor:
        return image

    def classify(self, features: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(features), 20 * (features - self.level)], dim=1)


BRIGHT = Specialist(SPEC, (Bright().eval(),))


@pytest.mark.slow
def test_what_looks_alike_elsewhere_is_not_found() -> None:
    label = predict_in_roi(BRIGHT, OTHER, lambda: Template("t", *texture(1))).labels()
    where = np.argwhere(label > 0)
    assert ((where.max(0) - where.min(0) + 1) * 1.5 <= 63).all()
    assert dice(find_roi(Template("t", *texture(1)), OTHER, "cpu").labels() * label, label, 1) > 0


def test_without_an_outlined_scan_the_client_is_told() -> None:
    def nearest() -> Template:
        raise UserError("none is outlined", status=409)

    with pytest.raises(UserError, match="none is outlined"):
        predict_in_roi(BRIGHT, OTHER, nearest)


def test_a_scan_without_a_place_like_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = torch.zeros(2, *frame_of(OTHER).shape)
    nothing[0] = 1
    found = SoftLabels(frame_of(OTHER), nothing, nothing[0], ("t",), 0.5)
    monkeypatch.setattr(located, "find_roi", lambda *_: found)
    with pytest.raises(UserError, match="outline it and train again") as caught:
        predict_in_roi(BRIGHT, OTHER, lambda: Template("t", *texture(1)))
    assert caught.value.status == 422


def test_a_picture_as_the_outlined_scan_is_refused() -> None:
    scan, label = texture(1)
    picture = Template("p", Volume(scan.array[:, :, 45:46], scan.affine), label[:, :, 45:46])
    with pytest.raises(UserError, match="2D images"):
        predict_in_roi(BRIGHT, OTHER, lambda: picture)


@pytest.mark.slow
def test_scoring_looks_there_too(tmp_path: Path) -> None:
    outlined, label = texture(1)
    for name, scan in (("one", outlined), ("other", OTHER)):
        nib.save(nib.Nifti1Image(scan.array, scan.affine), tmp_path / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(label, outlined.affine), tmp_path / "label.nii.gz")
    save_specialist(tmp_path / "specialist.pt", SPEC, [build_network(SPEC)])
    case = Case("one", tmp_path / "one.nii.gz", tmp_path / "label.nii.gz")
    basis = Basis(LabelSchema(("nodule",)), tmp_path / "specialist.pt", [case])
    judge = Judge(basis, Mind(), create_propagator("registration", "cpu"), "cpu")
    prediction = Subject(Asked("other", tmp_path / "other.nii.gz", ()), judge).prediction
    assert prediction is not None
    assert max(prediction.frame.extent) <= 63


def test_a_specialist_for_whole_scans_asks_for_no_outlined_one() -> None:
    def nearest() -> Template:
        raise AssertionError

    specialist = Specialist(replace(SPEC, part=None), (Bright().eval(),))
    assert predict_in_roi(specialist, OTHER, nearest).frame.box == frame_of(OTHER).box
