"""Of scans that are much larger than what is outlined, a part is learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.formats.volumes import read_volume
from lib.generalists import Generalist, create_generalist
from lib.propagation import SoftLabels, Template
from lib.propagation.registration import RegistrationPropagator
from lib.recipes import PRESETS, Case, RecipeOptions, RecipeSettings, RunRequest, run_recipe
from lib.recipes.engine.options import Preset
from lib.specialists import load_specialist
from phantoms import dice, texture
from recipe_runs import CopyPropagator, Listener

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def small_presets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", Preset(2, 2, 4, 2, (4, 8, 8), 60_000, 8_000))
        yield


@pytest.fixture(scope="module")
def large_scans(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Three patients with a small structure, the first one outlined; each has its truth beside it."""
    folder = tmp_path_factory.mktemp("large")
    cases = []
    for seed in (1, 2, 3):
        scan, label = texture(seed)
        nib.save(nib.Nifti1Image(scan.array, scan.affine), folder / f"{seed}.nii.gz")
        nib.save(nib.Nifti1Image(label, scan.affine), folder / f"{seed}-label.nii.gz")
        cases.append(Case(str(seed), folder / f"{seed}.nii.gz", folder / "1-label.nii.gz" if seed == 1 else None))
    return cases


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["semisam_o1", "semisam_plus", "ssl_medsam2"])
def test_of_large_scans_a_part_is_learned_and_labelled(large_scans: list[Case], tmp_path: Path, recipe: str) -> None:
    listener = Listener()
    result = run_recipe(
        RunRequest(
            large_scans,
            LabelSchema(("nodule",)),
            RecipeOptions(recipe=recipe, rounds=1, max_epochs=1),
            RecipeSettings(),
            tmp_path / "runs",
        ),
        generalist=create_generalist("mind"),
        propagator=RegistrationPropagator(voxels=16_000, device="cpu"),
        observer=listener,
    )
    assert load_specialist(result.checkpoint, "cpu").spec.part is not None
    assert result.report is not None
    assert set(result.pseudo_labels) == {"2", "3"}
    for name in ("2", "3"):
        truth = np.asarray(nib.load(large_scans[0].image.with_name(f"{name}-label.nii.gz")).dataobj)
        found = [np.asarray(nib.load(each.pseudo_labels[name].path).dataobj) for each in listener.rounds]
        assert dice(found[0], truth, 1) > 0.8
        where = np.argwhere(found[1] > 0)
        assert found[1].shape == truth.shape
        assert len(where) == 0 or ((where.max(0) - where.min(0) + 1) * 1.5 < 100).all()


@pytest.mark.slow
def test_a_large_scan_without_any_trace_of_the_structure_is_left_out(large_scans: list[Case], tmp_path: Path) -> None:
    second = read_volume(large_scans[1].image).array

    class Finds2(CopyPropagator):
        """Finds nothing but in patient 2."""

        def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
            soft = super().propagate(template, scan, channels, generalist)
            if not np.array_equal(scan.array, second):
                soft.probabilities[0], soft.probabilities[1:] = 1, 0
            return soft

    result = run_recipe(
        RunRequest(
            large_scans,
            LabelSchema(("nodule",)),
            RecipeOptions(rounds=1, max_epochs=1),
            RecipeSettings(),
            tmp_path / "runs",
        ),
        generalist=create_generalist("mind"),
        propagator=Finds2(),
        observer=Listener(),
    )
    assert set(result.pseudo_labels) == {"2"}
    assert "outline it" in result.skipped["3"]
