"""A whole training on 2D images in colour, and studies that mix 2D images with 3D scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.generalists import Generalist, create_generalist
from lib.generalists.base import PromptKind, Prompts
from lib.generalists.mind import Mind
from lib.propagation import create_propagator
from lib.recipes import PRESETS, Case, RecipeOptions, RecipeSettings, RunRequest, RunResult, SilentObserver, run_recipe
from lib.recipes.engine.grid import network_2d
from lib.recipes.engine.options import Preset
from lib.specialists import load_specialist, predict
from picturefiles import PICTURE_LABELS, save_picture, tiny_picture
from tiny_study import save_nifti, tiny_scan

SCHEMA = LabelSchema(PICTURE_LABELS)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(1, 2, 4, 2, (4, 8, 8), 6_000, 4_000))


def pictures(folder: Path, count: int, outlined: int = 1) -> list[Case]:
    cases = []
    for n in range(1, count + 1):
        pixels, label = tiny_picture(n)
        image = save_picture(folder / f"p{n}.png", pixels)
        cases.append(Case(f"p{n}", image, save_picture(folder / f"l{n}.png", label) if n <= outlined else None))
    return cases


def volume(folder: Path, *, outlined: bool) -> Case:
    array, label, affine = tiny_scan(1)
    image = save_nifti(folder / "deep.nii.gz", array, affine)
    return Case("deep", image, save_nifti(folder / "deep_l.nii.gz", label, affine) if outlined else None)


class Painter(Mind):
    """A model that sees colours and gives back the mask; it keeps what it was shown."""

    prompts: frozenset[PromptKind] = frozenset({"points", "mask"})

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self.colours = colours
        self.shown: list[Tensor] = []

    def open(self, image: Tensor, spacing: object) -> Painter:
        self.shown.append(image)
        return self

    def segment(self, prompts: Prompts) -> Tensor:
        assert prompts.mask is not None
        return prompts.mask


def run(cases: Sequence[Case], folder: Path, generalist: Generalist | None = None, **options: str) -> RunResult:
    chosen = RecipeOptions(**options)  # type: ignore[arg-type]
    return run_recipe(
        RunRequest(cases, SCHEMA, chosen, RecipeSettings(), folder),
        generalist=generalist or create_generalist("mind"),
        propagator=create_propagator("prototype"),
        observer=SilentObserver(),
    )


@pytest.mark.slow
def test_training_on_colours_makes_a_specialist_for_2d_images(tmp_path: Path) -> None:
    cases = [*pictures(tmp_path, 3), volume(tmp_path, outlined=False)]
    result = run(cases, tmp_path / "run")
    assert result.checkpoint is not None
    specialist = load_specialist(result.checkpoint, "cpu")
    spec = specialist.spec
    assert (spec.network, spec.inputs, spec.flat, spec.roi_size[2]) == ("unet2d", 3, True, 1)
    assert "This is a 3D scan" in result.skipped["deep"]
    assert set(result.pseudo_labels) == {"p2", "p3"}
    for name, label in result.pseudo_labels.items():
        scan = read_volume(tmp_path / f"{name}.png")
        assert read_label(label.path, scan, SCHEMA, may_be_empty=True).shape == (72, 56, 1)
    prediction = predict(specialist, scan)
    assert prediction.labels().shape == prediction.uncertainty_map().shape == (72, 56, 1)
    assert np.isfinite(prediction.uncertainty_map()).all()


@pytest.mark.slow
@pytest.mark.parametrize("colours", [True, False])
def test_a_model_that_sees_colours_is_asked_in_colour(tmp_path: Path, colours: bool) -> None:
    painter = Painter(colours=colours)
    run(pictures(tmp_path, 2), tmp_path / "run", painter, recipe="semisam_plus", prompts="mask")
    picture = read_volume(tmp_path / "p2.png")
    assert picture.colour is not None
    expected = picture.colour if colours else picture.clipped[None]
    assert {tuple(image.shape[:1]) for image in painter.shown} == {(3,) if colours else (1,)}
    for shown in painter.shown:
        # As bright as in the file (0..255), and red, green and blue in their order.
        np.testing.assert_allclose(shown.mean(dim=(1, 2, 3)), expected.mean(axis=(1, 2, 3)), rtol=0.02)


@pytest.mark.slow
def test_2d_images_alone_are_of_no_use_to_an_outlined_3d_scan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"This is a 2D image, but the outlined ones \(deep\) are 3D scans") as caught:
        run([volume(tmp_path, outlined=True), *pictures(tmp_path, 1, outlined=0)], tmp_path / "run")
    assert caught.value.status == 422


def test_outlined_scans_of_both_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Both 2D images \(p1, ...\) and 3D scans \(deep, ...\)") as caught:
        run([*pictures(tmp_path, 2), volume(tmp_path, outlined=True)], tmp_path / "run")
    assert caught.value.status == 422


def test_networks_for_2d_images() -> None:
    assert network_2d(RecipeOptions(recipe="semisam_o1", network="dynunet")) == "unet2d"
    assert network_2d(RecipeOptions(recipe="sc_sam", network="sam")) == "sam"
    with pytest.raises(UserError, match="nnunetv2 is not used on 2D images"):
        network_2d(RecipeOptions(recipe="ssl_medsam2", network="nnunetv2"))
