"""Whose features carry labels over: a 2D model's on pictures, MIND's on volumes, unless the administrator says else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.generalists import ENTRIES, CachedGeneralist, FeatureCache, Generalist, describing
from lib.generalists.mind import Mind
from lib.propagation import SoftLabels, Template, propagate_from
from lib.propagation.study_tools import Tools
from lib.selection import describe, reverse
from tinymodel import TinyGeneralist

FLAT, THICK = (20, 20, 1), (20, 20, 20)


def tools(folder: Path, *generalists: str, by_kind: bool = True) -> Tools:
    return Tools(generalists, folder, folder / "features", "registration", by_kind=by_kind)


class Listener:
    """A propagator that notes whose features it is given."""

    name = "listener"

    def __init__(self) -> None:
        self.given: list[str] = []

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        self.given.append(generalist.name)
        frame = frame_of(scan)
        soft = frame.one_hot(template.label, channels)
        return SoftLabels(frame, soft, soft[0], (template.name,), 0.5)


def scan(shape: tuple[int, int, int]) -> Volume:
    return Volume(np.random.default_rng(0).normal(size=shape).astype(np.float32), np.eye(4))


def outlined(shape: tuple[int, int, int]) -> Template:
    label = np.zeros(shape, np.uint8)
    label[5:12, 6:14] = 1
    return Template("outlined", scan(shape), label)


@pytest.mark.parametrize("name", ["mobile_sam", "lite_medsam", "sam_vit_b", "medsam"])
def test_a_2d_model_describes_pictures_and_mind_volumes(tmp_path: Path, name: str) -> None:
    generalist = tools(tmp_path, name).open_generalist()
    listener = Listener()
    for shape in (FLAT, THICK):
        propagate_from([outlined(shape)], scan(shape), 2, generalist=generalist, propagator=listener)
    assert listener.given == [name, "mind"]


@pytest.mark.parametrize("name", ["mind", "sam_med3d", "sam2_tiny"])
def test_other_models_describe_everything(tmp_path: Path, name: str) -> None:
    generalist = tools(tmp_path, name).open_generalist()
    assert describing(generalist, flat=True) is describing(generalist, flat=False) is generalist


def test_the_administrator_may_have_the_first_model_describe_everything(tmp_path: Path) -> None:
    generalist = tools(tmp_path, "mobile_sam", by_kind=False).open_generalist()
    assert describing(generalist, flat=False) is generalist


def test_a_model_that_is_prompted_only_changes_nothing(tmp_path: Path) -> None:
    first, second = tools(tmp_path, "mind", "mobile_sam").open_generalists()
    assert describing(first, flat=True).name == describing(first, flat=False).name == "mind"
    assert second.name == "mobile_sam"


def test_scans_are_compared_and_carried_back_by_the_same_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the next scans and the quality of a label stand on the features that carried it over."""
    model = TinyGeneralist("tiny", torch.ones(4))
    cached = CachedGeneralist(model, FeatureCache(tmp_path), for_volumes=Mind())
    assert describe(scan(THICK), cached).equal(describe(scan(THICK), Mind()))
    assert model.encoded == 0
    describe(scan(FLAT), cached)
    assert model.encoded == 1
    listener = Listener()
    monkeypatch.setattr(reverse, "RegistrationPropagator", lambda **_: listener)
    for shape in (FLAT, THICK):
        reverse.reverse_dice(outlined(shape).label, scan(shape), outlined(shape), 1, cached)
    assert listener.given == ["tiny", "mind"]


def test_only_measured_models_leave_volumes_to_mind() -> None:
    """MobileSAM and LiteMedSAM were measured; SAM and MedSAM are what they were made from."""
    assert {name for name, entry in ENTRIES.items() if "volume" not in entry.describes} == {
        "mobile_sam",
        "lite_medsam",
        "sam_vit_b",
        "medsam",
    }
    assert all("picture" in entry.describes for entry in ENTRIES.values())
