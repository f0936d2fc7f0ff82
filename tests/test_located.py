"""Specialists that work on a part of a scan: where it lies, and that they look there and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.errors import UserError
from lib.frames import Frame, frame_of
from lib.located import predict_located
from lib.propagation import Template, locate
from lib.specialists import Specialist, SpecialistSpec, part_of
from lib.specialists.networks import SpecialistNetwork
from phantoms import dice, texture

SPEC = SpecialistSpec(("nodule",), (4, 8), (2.0, 2.0, 2.0), (24, 24, 24), part=(60.0, 60.0, 60.0))
OTHER, TRUTH = texture(2)


def marked(frame: Frame, *where: slice) -> Tensor:
    inside = torch.zeros(frame.shape, dtype=torch.bool)
    inside[where] = True
    return inside


def test_a_part_has_its_size_with_the_structures_in_the_middle() -> None:
    frame = frame_of(OTHER)  # 96 x 88 x 80 voxels of 1.5 mm
    part = part_of(frame, marked(frame, slice(40, 50), slice(40, 50), slice(40, 50)), frame, SPEC)
    assert part.box == ((25, 65), (25, 65), (25, 65))
    assert part.shape == (40, 40, 40)
    coarse = frame.with_shape((24, 22, 20))
    assert part_of(frame, marked(coarse, slice(10, 12), slice(10, 12), slice(10, 12)), coarse, SPEC).extent == (
        60,
        60,
        60,
    )


def test_a_part_ends_where_the_scan_ends_and_has_room_for_all_structures() -> None:
    frame = frame_of(OTHER)
    part = part_of(frame, marked(frame, slice(0, 8), slice(20, 70), slice(60, 80)), frame, SPEC)
    assert part.box[0] == (0, 40)
    assert part.box[1] == (13, 77)  # 75 mm, and 10 on each side
    assert part.box[2] == (40, 80)


def test_nothing_marked_or_a_specialist_for_whole_scans() -> None:
    frame = frame_of(OTHER)
    inside = marked(frame, slice(40, 50), slice(40, 50), slice(40, 50))
    assert part_of(frame, torch.zeros_like(inside), frame, SPEC) == frame
    assert part_of(frame, inside, frame, replace(SPEC, part=None)) == frame


def test_an_outlined_scan_says_where_to_look() -> None:
    outlined, label = texture(1)
    found = locate(Template("t", outlined, label * 7), OTHER)  # whatever the structure's number
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


@pytest.mark.parametrize("outlined", [True, False])
def test_what_looks_alike_elsewhere_is_not_found(outlined: bool, caplog: pytest.LogCaptureFixture) -> None:
    specialist = Specialist(SPEC, (cast("SpecialistNetwork", Bright().eval()),))

    def nearest() -> Template:
        if not outlined:
            raise UserError("none is outlined")
        return Template("t", *texture(1))

    label = predict_located(specialist, OTHER, nearest).labels()
    where = np.argwhere(label > 0)
    extent = (where.max(0) - where.min(0) + 1) * 1.5
    if outlined:
        assert (extent <= 63).all()
    else:
        assert (extent > 80).all()
        assert "the whole scan is gone through" in caplog.text


def test_a_specialist_for_whole_scans_asks_for_no_outlined_one() -> None:
    def nearest() -> Template:
        raise AssertionError

    specialist = Specialist(replace(SPEC, part=None), (cast("SpecialistNetwork", Bright().eval()),))
    assert predict_located(specialist, OTHER, nearest).frame.box == frame_of(OTHER).box
